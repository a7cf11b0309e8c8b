//! The way to a region's registry: addresses and operator's credentials, one channel, a time limit on every call. Tries
//! each address once; whoever wants to wait longer calls again.

use std::{fs, future::Future, path::Path, sync::Arc, time::Duration};

use mesh::{
    identity::{Bundle, Expect, Identity, Svid, system::Role},
    model::RegionId,
    net::grpc::{self, Credentials, Timeouts},
};
use proto::admin::v1::{ReadOptions, admin_client::AdminClient};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    args::Global,
    failure::{Exit, Failure, Outcome},
};

/// Where a node listens when nothing else is said.
const DEFAULT_ADDRESS: &str = "127.0.0.1:15012";

/// The operator's API of one region.
#[derive(Clone)]
pub struct Client {
    admin: AdminClient<Channel>,
    addresses: String,
    timeout: Duration,
    local: bool,
}

impl Client {
    /// Connects to the first node that answers.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] when none does, [`Exit::Failed`] when the credentials cannot be read.
    pub(crate) async fn connect(global: &Global) -> Outcome<Self> {
        let identity = credentials(&global.credentials)?;
        let addresses = addresses(&global.registry, &global.credentials)?;
        let mut client = Self::dial(&addresses, identity, global.timeout).await?;
        client.local = global.local;
        Ok(client)
    }

    /// Connects with an identity that is already loaded.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] when no address answers within `timeout`.
    pub async fn dial(addresses: &[String], identity: Identity, timeout: Duration) -> Outcome<Self> {
        let listed = addresses.join(", ");
        let expect = Expect::System(Role::Registry, identity.trust_domain());
        let credentials = Credentials::from(identity);
        let dialing = grpc::connect_any(addresses, &credentials, &expect, Timeouts::default());
        let channel = match tokio::time::timeout(timeout, dialing).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable(&listed, error.into())),
            Err(_) => return Err(unreachable(&listed, anyhow::anyhow!("no answer within {timeout:?}"))),
        };
        Ok(Self {
            admin: AdminClient::new(channel),
            addresses: listed,
            timeout,
            local: false,
        })
    }

    /// What reads ask for: linearizable, unless `--local`.
    #[must_use]
    pub fn read(&self) -> Option<ReadOptions> {
        Some(ReadOptions { local: self.local })
    }

    /// One call, cut at the time limit.
    ///
    /// # Errors
    /// What the registry answered, or [`Exit::Unreachable`] when it did not.
    pub async fn call<R, F>(&self, call: impl FnOnce(AdminClient<Channel>) -> F) -> Outcome<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        match tokio::time::timeout(self.timeout, call(self.admin.clone())).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unavailable && is_transport(&status) => {
                Err(unreachable(&self.addresses, anyhow::anyhow!("{}", status.message())))
            }
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(unreachable(
                &self.addresses,
                anyhow::anyhow!("no answer within {:?}", self.timeout),
            )),
        }
    }
}

/// A status that our own side made because the connection broke, not one that a node answered.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn unreachable(addresses: &str, error: anyhow::Error) -> Failure {
    Failure::new(Exit::Unreachable, error)
        .while_doing(format!("registry not reachable at {addresses}"))
        .next("is it running? Start it with `isthmus registry --config FILE`, or name another node with --registry HOST:PORT")
}

/// Loads an operator's identity from a folder as `registry init` writes it.
///
/// # Errors
/// Says which file is missing or wrong.
pub fn credentials(folder: &Path) -> Outcome<Identity> {
    let shown = folder.display().to_string();
    let hint = "give the folder that `isthmus registry init` wrote (<data_dir>/operator) with --credentials DIR";
    let svid = Svid::load(folder)
        .map_err(|error| Failure::new(Exit::Failed, error).while_doing(format!("bad credentials in {shown}")))?
        .ok_or_else(|| Failure::text(Exit::Failed, format!("no operator's credentials in {shown}")).next(hint))?;
    let path = folder.join("bundle.pem");
    let pem = fs::read(&path).map_err(|error| {
        Failure::new(Exit::Failed, error)
            .while_doing(format!("cannot read {}", path.display()))
            .next(hint)
    })?;
    let anchors = CertificateDer::pem_slice_iter(&pem).map(|der| der.map(|der| der.to_vec()));
    let bad = |error: anyhow::Error| Failure::new(Exit::Failed, error).while_doing(format!("bad {}", path.display()));
    let anchors = anchors
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.into()))?;
    let domain = svid.id().trust_domain().clone();
    // Only the anchors matter here; the name of a trust domain need not be that of a region.
    let region = RegionId::parse(domain.as_str()).or_else(|_| RegionId::parse("local"));
    let region = region.map_err(|error| bad(error.into()))?;
    let bundle = Bundle::new(domain, region, 1, anchors).map_err(|error| bad(error.into()))?;
    Identity::new(svid, [Arc::new(bundle)])
        .map_err(|error| Failure::new(Exit::Failed, error).while_doing(format!("bad credentials in {shown}")))
}

/// The addresses given, else those in the credentials folder, else the default.
pub(crate) fn addresses(given: &[String], folder: &Path) -> Outcome<Vec<String>> {
    let addresses: Vec<String> = if given.is_empty() {
        let text = fs::read_to_string(folder.join("registry")).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    } else {
        given.to_vec()
    };
    for address in &addresses {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(Failure::text(
                Exit::Usage,
                format!("registry address {address:?} is not host:port; write for example {DEFAULT_ADDRESS}"),
            ));
        }
    }
    if addresses.is_empty() {
        return Ok(vec![DEFAULT_ADDRESS.to_owned()]);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_addresses_win_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(addresses(&[], folder.path()).unwrap(), [DEFAULT_ADDRESS]);
        fs::write(folder.path().join("registry"), "10.0.0.1:15012\n\n10.0.0.2:15012\n").unwrap();
        assert_eq!(
            addresses(&[], folder.path()).unwrap(),
            ["10.0.0.1:15012", "10.0.0.2:15012"]
        );
        let given = ["[::1]:1".to_owned()];
        assert_eq!(addresses(&given, folder.path()).unwrap(), given);
    }

    #[test]
    fn malformed_address_is_a_usage_error_that_shows_it() {
        for text in ["localhost", ":15012", "host:0", "host:port"] {
            let failure = addresses(&[text.to_owned()], Path::new("/nowhere")).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            assert!(failure.to_string().contains(text), "{failure}");
        }
    }

    #[test]
    fn missing_credentials_say_which_folder_and_how_to_give_another() {
        let failure = credentials(Path::new("/nowhere/at/all")).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.contains("/nowhere/at/all") && text.contains("--credentials"),
            "{text}"
        );
    }
}
