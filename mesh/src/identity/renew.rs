//! How a process gets its identity and keeps it: the saved one while it is valid, else one for a join token; renewed at half
//! of its life, for ever. A registry that is away stops nothing before the certificate ends.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use metrics::{Counter, Gauge};
use proto::registry::v1::{self as pb, certificates_client::CertificatesClient};
use thiserror::Error;
use tonic::Code;
use tracing::{error, info, warn};

use super::{
    Bundle, BundleError, Expect, Identity, IdentityError, KeyRequest, Role, SpiffeId, Svid, SvidError, Token,
    TokenError, TokenKind, TrustDomain, write_private,
};
use crate::{
    model::{Timestamp, WireError},
    net::grpc::{self, Credentials, DialError, Timeouts},
    ops::Metrics,
    runtime::{Backoff, OnExit, Stop, Tasks, clock},
};

const BUNDLES_FILE: &str = "bundles";
/// A refusal may come from a node that has not yet heard of the token; so often in a row it is believed.
const REFUSALS_MAX: u32 = 4;
/// How often the age of the certificate is looked at; wall-clock time may jump, as after a suspend.
const TICK: Duration = Duration::from_secs(5);
/// For one call, connection included.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits after a failed renewal, first and longest.
const RENEW_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How to get an identity.
#[derive(Clone, Debug)]
pub struct Obtain {
    /// Where the SVID and the bundles are kept (mode 0700); none keeps nothing, and every start needs a token.
    pub directory: Option<PathBuf>,
    /// A workload join token, the word; needed when there is no valid saved SVID.
    pub token: Option<String>,
    /// `host:port` of the region's registry nodes; empty takes those that the token names.
    pub addresses: Vec<String>,
    /// Who this process shall be, where it knows; another saved identity is then not used, another issued one refused.
    pub expected: Option<(crate::model::Namespace, crate::model::ServiceAccount)>,
    /// Waits between attempts with the token, first and longest. Default 200 ms to 5 s.
    pub retry: (Duration, Duration),
}

impl Obtain {
    /// The defaults.
    #[must_use]
    pub fn new(directory: Option<PathBuf>, token: Option<String>, addresses: Vec<String>) -> Self {
        Self {
            directory,
            token,
            addresses,
            expected: None,
            retry: (Duration::from_millis(200), Duration::from_secs(5)),
        }
    }
}

/// Why there is no identity, and waiting would not bring one.
#[derive(Debug, Error)]
pub enum ObtainError {
    /// Nothing saved, or expired, and no token.
    #[error("no valid certificate is saved and no join token is given; make one with `isthmus token`")]
    NoToken,
    /// The token does not parse, is of another kind or expired.
    #[error("join token is not usable")]
    Token(#[from] TokenError),
    /// The token's anchors are none.
    #[error("join token has an anchor that is no certificate authority")]
    Anchor(#[from] BundleError),
    /// The registry knows the token not, or not any more.
    #[error("registry refuses the join token: {0}; make a new one with `isthmus token`")]
    Refused(String),
    /// The token is another account's.
    #[error("join token is for {got}, the settings say namespace {namespace}, service account {account}")]
    OtherId {
        /// Whose certificate came.
        got: SpiffeId,
        /// What the settings say.
        namespace: crate::model::Namespace,
        /// What the settings say.
        account: crate::model::ServiceAccount,
    },
    /// No key can be made.
    #[error("no key could be made")]
    Key(#[source] SvidError),
    /// The certificate that came is not good.
    #[error("registry issued a certificate that is not good")]
    Issued(#[from] IdentityError),
    /// A stop was ordered while waiting for a registry.
    #[error("stopped before the registry answered")]
    Stopped,
}

/// Gives the saved identity while it is valid, else gets one for the token, waiting for the registry as long as it takes. A
/// task then renews it until the tasks' stop.
///
/// # Errors
/// What waiting cannot mend.
pub async fn obtain(settings: Obtain, tasks: &Tasks, metrics: &Metrics) -> Result<Identity, ObtainError> {
    let token = settings
        .token
        .as_deref()
        .map(|word| Token::decode(word, TokenKind::Workload))
        .transpose()?;
    let saved = match settings.directory.clone() {
        None => None,
        Some(directory) => load(directory).await,
    };
    let wanted = |identity: &Identity| {
        let domain_matches = token
            .as_ref()
            .is_none_or(|token| token.trust_domain == identity.trust_domain());
        let id_matches = settings
            .expected
            .as_ref()
            .is_none_or(|expected| identity.id().workload().as_ref() == Some(expected));
        domain_matches && id_matches
    };
    let identity = match saved {
        Some(identity) if wanted(&identity) => {
            info!(id = %identity.id(), seconds_left = seconds_left(&identity.svid()), "identity from disk");
            identity
        }
        _ => {
            let token = token.as_ref().ok_or(ObtainError::NoToken)?;
            join(&settings, token, tasks.stop()).await?
        }
    };
    let addresses = match token {
        Some(token) if settings.addresses.is_empty() => token.addresses,
        _ => settings.addresses,
    };
    let renewer = Renewer {
        identity: identity.clone(),
        directory: settings.directory,
        token: settings.token,
        addresses,
        seconds_left: metrics.gauge(
            "isthmus_certificate_seconds_left",
            "until the own certificate ends",
            &[],
        ),
        renewed: metrics.counter(
            "isthmus_certificate_renewed_total",
            "renewals of the own certificate",
            &[],
        ),
        failed: metrics.counter(
            "isthmus_certificate_renew_failed_total",
            "attempts to renew the own certificate that failed",
            &[],
        ),
    };
    let stop = tasks.stop().clone();
    tasks.spawn("identity", OnExit::StopProcess, async move {
        tokio::select! {
            () = stop.ordered() => {}
            () = renewer.run() => {}
        }
    });
    Ok(identity)
}

/// Why one attempt failed.
#[derive(Debug, Error)]
enum IssueError {
    #[error("no node of the registry answers: {0}")]
    Dial(#[from] DialError),
    #[error("registry refuses ({:?}): {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("registry did not answer in time")]
    Silent,
    #[error("registry's answer is not usable: {0}")]
    Answer(String),
}

impl From<tonic::Status> for IssueError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<SvidError> for IssueError {
    fn from(error: SvidError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl From<WireError> for IssueError {
    fn from(error: WireError) -> Self {
        Self::Answer(error.to_string())
    }
}

struct Issued {
    svid: Svid,
    bundles: Vec<Arc<Bundle>>,
}

/// One attempt over all addresses.
async fn issue(
    addresses: &[String],
    credentials: &Credentials,
    domain: &TrustDomain,
    join_token: String,
) -> Result<Issued, IssueError> {
    let key = KeyRequest::generate()?;
    let request = pb::IssueRequest {
        csr: key.der().to_vec().into(),
        join_token,
    };
    let attempt = async {
        let timeouts = Timeouts {
            connect: CALL_TIMEOUT / 2,
            call: Some(CALL_TIMEOUT),
        };
        let expect = Expect::System(Role::Registry, domain.clone());
        let channel = grpc::connect_any(addresses, credentials, &expect, timeouts).await?;
        Ok::<_, IssueError>(CertificatesClient::new(channel).issue(request).await?.into_inner())
    };
    // One slow address must not use up the time of the others.
    let patience = CALL_TIMEOUT * u32::try_from(addresses.len().clamp(1, 8)).unwrap_or(1);
    let timely = tokio::time::timeout(patience, attempt).await;
    let reply = timely.map_err(|_| IssueError::Silent)??;
    let svid = key.complete(reply.chain.iter().map(|der| der.to_vec()).collect())?;
    let bundles = reply
        .bundles
        .into_iter()
        .map(|bundle| Bundle::try_from(bundle).map(Arc::new));
    Ok(Issued {
        svid,
        bundles: bundles.collect::<Result<_, _>>()?,
    })
}

/// The first certificate.
async fn join(settings: &Obtain, token: &Token, stop: &Stop) -> Result<Identity, ObtainError> {
    token.check_time(clock::wall())?;
    let credentials = Credentials::from(token.bootstrap()?);
    let addresses = if settings.addresses.is_empty() {
        &token.addresses
    } else {
        &settings.addresses
    };
    let word = settings.token.clone().unwrap_or_default();
    let mut backoff = Backoff::new(settings.retry.0, settings.retry.1);
    let mut refusals = 0;
    loop {
        let attempt = issue(addresses, &credentials, &token.trust_domain, word.trim().to_owned());
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            () = stop.ordered() => return Err(ObtainError::Stopped),
        };
        match outcome {
            Ok(issued) => return accept(settings, issued).await,
            Err(error) => {
                if let IssueError::Status(status) = &error
                    && matches!(
                        status.code(),
                        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
                    )
                {
                    refusals += 1;
                    if refusals >= REFUSALS_MAX {
                        return Err(ObtainError::Refused(status.message().to_owned()));
                    }
                }
                token.check_time(clock::wall())?;
                warn!(%error, "no certificate yet; trying again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = stop.ordered() => return Err(ObtainError::Stopped),
        }
    }
}

async fn accept(settings: &Obtain, issued: Issued) -> Result<Identity, ObtainError> {
    if let Some((namespace, account)) = &settings.expected
        && issued.svid.id().workload() != Some((namespace.clone(), account.clone()))
    {
        return Err(ObtainError::OtherId {
            got: issued.svid.id().clone(),
            namespace: namespace.clone(),
            account: account.clone(),
        });
    }
    let identity = Identity::new(issued.svid.clone(), issued.bundles.iter().cloned())?;
    info!(id = %identity.id(), "identity issued");
    save(settings.directory.clone(), issued).await;
    Ok(identity)
}

struct Renewer {
    identity: Identity,
    directory: Option<PathBuf>,
    token: Option<String>,
    addresses: Vec<String>,
    seconds_left: Gauge,
    renewed: Counter,
    failed: Counter,
}

impl Renewer {
    async fn run(self) {
        // One that was saved long ago is renewed at once.
        let mut earliest = Timestamp(0);
        loop {
            // Spread, so that a thousand workloads that started together do not renew together.
            let svid = self.identity.svid();
            let life = svid.not_after().since(svid.not_before());
            let due = svid.renew_at().plus(life.mul_f64(fastrand::f64() / 10.0));
            self.wait_until(due.max(earliest)).await;
            let mut backoff = Backoff::new(RENEW_RETRY.0.min(life / 20), RENEW_RETRY.1.min(life / 10));
            while let Err(error) = self.renew().await {
                self.failed.increment(1);
                self.tell(&error);
                let retry_at = clock::wall().plus(backoff.next_wait());
                self.wait_until(retry_at).await;
            }
            // A certificate that begins far in the past is over half of its life already, and must not be renewed in a ring.
            let now = clock::wall();
            let left = self.identity.svid().not_after().since(now);
            earliest = now.plus((left / 3).max(Duration::from_millis(100)));
        }
    }

    async fn wait_until(&self, due: Timestamp) {
        loop {
            let now = clock::wall();
            self.seconds_left.set(seconds_left(&self.identity.svid()));
            if now >= due {
                return;
            }
            tokio::time::sleep(due.since(now).min(TICK)).await;
        }
    }

    async fn renew(&self) -> Result<(), IssueError> {
        let domain = self.identity.trust_domain();
        let is_over = seconds_left(&self.identity.svid()) <= 0.0;
        let issued = if is_over {
            // The SVID opens no door any more; a token that is still good does.
            let word = self.token.as_deref().unwrap_or_default();
            let token =
                Token::decode(word, TokenKind::Workload).map_err(|error| IssueError::Answer(error.to_string()))?;
            let bootstrap = token
                .bootstrap()
                .map_err(|error| IssueError::Answer(error.to_string()))?;
            issue(&self.addresses, &bootstrap.into(), &domain, word.trim().to_owned()).await?
        } else {
            issue(&self.addresses, &self.identity.clone().into(), &domain, String::new()).await?
        };
        // The own bundle is needed to check the new certificate, as after a change of authority; the subscription, which
        // brings all bundles, may be behind it.
        let known = self.identity.bundle(&domain).map_or(0, |bundle| bundle.sequence());
        if issued
            .bundles
            .iter()
            .any(|bundle| *bundle.trust_domain() == domain && bundle.sequence() > known)
        {
            self.identity.replace_bundles(issued.bundles.iter().cloned());
        }
        let replaced = self.identity.replace_svid(issued.svid.clone());
        replaced.map_err(|error| IssueError::Answer(error.to_string()))?;
        self.renewed.increment(1);
        info!(id = %self.identity.id(), seconds_left = seconds_left(&issued.svid), "identity renewed");
        save(self.directory.clone(), issued).await;
        Ok(())
    }

    fn tell(&self, reason: &IssueError) {
        let svid = self.identity.svid();
        let (left, life) = (seconds_left(&svid), svid.not_after().since(svid.not_before()));
        if left <= 0.0 {
            error!(error = %reason, "the certificate has ended and is not renewed: no new connection can be made");
        } else if left < life.as_secs_f64() / 4.0 {
            warn!(error = %reason, seconds_left = left, "less than a quarter of the certificate's life is left; is the registry up?");
        } else {
            info!(error = %reason, seconds_left = left, "certificate not renewed yet; trying again");
        }
    }
}

fn seconds_left(svid: &Svid) -> f64 {
    let left = svid.not_after().0.saturating_sub(clock::wall().0);
    left as f64 / 1000.0
}

/// The saved identity, if it is whole and valid now.
async fn load(directory: PathBuf) -> Option<Identity> {
    let read = tokio::task::spawn_blocking(move || {
        let svid = Svid::load(&directory).map_err(|error| error.to_string())?;
        let bundles = load_bundles(&directory)?;
        Ok::<_, String>(svid.map(|svid| (svid, bundles)))
    });
    let fault = match read.await {
        Ok(Ok(None)) => return None,
        Ok(Ok(Some((svid, bundles)))) => match Identity::new(svid, bundles) {
            Ok(identity) => return Some(identity),
            Err(error) => match std::error::Error::source(&error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            },
        },
        Ok(Err(fault)) => fault,
        Err(error) => error.to_string(),
    };
    warn!(fault, "saved identity is not used");
    None
}

/// One line each: trust domain, region, sequence, then its anchors in base64.
fn load_bundles(directory: &Path) -> Result<Vec<Arc<Bundle>>, String> {
    let path = directory.join(BUNDLES_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (domain, region, sequence) = (words.next()?, words.next()?, words.next()?);
        let anchors = words.map(|word| STANDARD.decode(word).ok()).collect::<Option<_>>()?;
        Bundle::new(
            domain.parse().ok()?,
            region.parse().ok()?,
            sequence.parse().ok()?,
            anchors,
        )
        .ok()
    };
    text.lines()
        .map(|text| {
            line(text)
                .map(Arc::new)
                .ok_or_else(|| format!("{} is damaged", path.display()))
        })
        .collect()
}

/// Keeps both on disk. A disk that refuses is told, and does not take the identity away.
async fn save(directory: Option<PathBuf>, issued: Issued) {
    let Some(directory) = directory else { return };
    let written = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        for bundle in &issued.bundles {
            text.push_str(&format!(
                "{} {} {}",
                bundle.trust_domain(),
                bundle.region(),
                bundle.sequence()
            ));
            for anchor in bundle.anchors() {
                text.push(' ');
                text.push_str(&STANDARD.encode(&anchor));
            }
            text.push('\n');
        }
        // Bundles first: an SVID without its bundle would not load.
        write_private(&directory, BUNDLES_FILE, &text)?;
        issued.svid.save(&directory)
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "identity not kept on disk: the next start needs the registry"),
        Err(error) => warn!(%error, "identity not kept on disk: the next start needs the registry"),
    }
}

#[cfg(test)]
mod tests;
