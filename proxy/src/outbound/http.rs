//! One request: read whom it is for, charge it, pick an endpoint, send it, and try again where that is safe. Bodies
//! stream through; one future owns both sides of the request.

use std::{convert::Infallible, sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::{body::Incoming, ext::Protocol, upgrade::OnUpgrade};
use mesh::{
    route::{Level, eject::Fault},
    runtime::clock,
};

use super::{
    Shared,
    answer::Refusal,
    dial::chain_text,
    pool::{Broke, Lease, replay},
    record::InFlight,
    retry::{self, REPLAY_BYTES_MAX},
    route::{Member, Route},
    target::{self, Intent},
    tcp, upgrade,
};
use crate::hop::{
    body::{Carried, Watch},
    headers::{self, CLIENT_CERT, REASON, REQUEST_ID},
};

/// Held until the last byte of a response.
pub(crate) struct Serving {
    _lease: Lease,
    _in_flight: InFlight,
}

impl Serving {
    pub(crate) fn new(lease: Lease, in_flight: InFlight) -> Self {
        Self {
            _lease: lease,
            _in_flight: in_flight,
        }
    }
}

/// What callers get.
pub(crate) type Answer = Response<Carried<Serving>>;

/// Reasons of a far proxy that say: the application has not seen the request.
const UNSEEN: [&str; 2] = ["application-down", "not-served"];

/// Serves one request of the application.
pub(crate) async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    let grpc = headers::is_grpc(&parts.headers);
    let extended = parts.extensions.get::<Protocol>().is_some();
    let answer = match target::read(&parts, extended) {
        Err(fault) => Err(Refusal::Bad(fault.to_owned())),
        Ok(Intent::Tunnel(authority)) => match parts.extensions.remove::<OnUpgrade>() {
            Some(upgrade) => tcp::tunnel(&shared, &authority, upgrade).await,
            None => Err(Refusal::Bad("this connection cannot become a tunnel".to_owned())),
        },
        Ok(Intent::Request(authority)) => route(&shared, parts, body, &authority).await,
    };
    let mut answer = answer.unwrap_or_else(|refusal| {
        shared.meters.refused(&refusal);
        let mut answer = refusal.respond(grpc, &shared.balancer.source.locality);
        if matches!(refusal, Refusal::Bad(_)) && version < Version::HTTP_2 {
            // Where one message is wrong, the next one need not begin where we think.
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    });
    // A status of an HTTP/2 hop goes back over whatever the application speaks.
    *answer.version_mut() = if version == Version::HTTP_2 {
        version
    } else {
        Version::HTTP_11
    };
    Ok(answer)
}

async fn route(shared: &Arc<Shared>, mut parts: Parts, body: Incoming, authority: &str) -> Result<Answer, Refusal> {
    if !headers::count_hop(&mut parts.headers) {
        return Err(Refusal::Loop);
    }
    let now = shared.health.clock.elapsed();
    shared
        .meter
        .admit(now)
        .map_err(|(after, tenant)| Refusal::OverQuota { after, tenant })?;
    let route = shared.route(authority).await?;
    if !route.target.protocol.is_http() {
        let label = route.label();
        return Err(Refusal::NotHttp(format!(
            "{label} is opaque TCP; use CONNECT or a listener of its own"
        )));
    }
    route.requests.fetch_add(1, Ordering::Relaxed);
    shared.budget.request(now);
    let upgrade = match parts.extensions.get::<Protocol>() {
        Some(protocol) => Some(protocol.as_str().to_owned()),
        None => headers::wants_upgrade(&parts.headers).map(str::to_owned),
    };
    prepare_head(&mut parts, authority)?;
    let limit = shared.settings.request_timeout;
    let timed_out = || Refusal::TimedOut {
        target: route.label(),
        waited: limit,
    };
    if let Some(protocol) = upgrade {
        let done = upgrade::forward(shared, &route, parts, &protocol);
        return tokio::time::timeout(limit, done).await.map_err(|_| timed_out())?;
    }
    let deadline = clock::now() + limit;
    let sending = tokio::time::timeout_at(deadline, Sending::new(parts, body)).await;
    let mut sending = sending.map_err(|_| Refusal::Bad("its small body did not come in time".to_owned()))??;
    match tokio::time::timeout_at(deadline, sending.run(shared, &route)).await {
        Ok(answer) => answer,
        Err(_) => {
            if let Some(member) = sending.tried.last() {
                shared.health.failed(&member.record, Fault::Errors, member.has_others);
                member.meters.failed();
            }
            Err(timed_out())
        }
    }
}

/// Makes the head one of our hop: HTTP/2 with its authority in the target, without what ends here.
fn prepare_head(parts: &mut Parts, authority: &str) -> Result<(), Refusal> {
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(HOST);
    parts.headers.remove(CLIENT_CERT);
    if !parts.headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&format!("{:032x}", fastrand::u128(..)))
    {
        parts.headers.insert(REQUEST_ID, id);
    }
    let path = match parts.uri.path_and_query() {
        Some(path) => path.clone(),
        None => PathAndQuery::from_static("/"),
    };
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path);
    parts.uri = uri
        .build()
        .map_err(|_| Refusal::Bad("the authority or path is no part of a URI".to_owned()))?;
    parts.version = Version::HTTP_2;
    Ok(())
}

/// The body, as far as it can be sent again.
enum Payload {
    /// Known in whole.
    Whole(Option<Bytes>),
    /// Not begun.
    Stream(Incoming),
    /// Handed over.
    Gone,
}

/// A request on its way, over all its tries.
struct Sending {
    /// None after it was handed over for good.
    head: Option<Parts>,
    payload: Payload,
    watch: Watch,
    tried: Vec<Arc<Member>>,
    idempotent: bool,
    grpc: bool,
}

/// What a try came to.
enum Tried {
    Answered(Box<Answer>),
    /// An answer that another endpoint may better.
    Faulty(Box<Answer>),
    /// No answer. `unseen` = no application has seen the request.
    Failed {
        reason: String,
        unseen: bool,
    },
}

impl Sending {
    async fn new(parts: Parts, body: Incoming) -> Result<Self, Refusal> {
        let idempotent = retry::is_idempotent(&parts.method);
        let grpc = headers::is_grpc(&parts.headers);
        let small = body.size_hint().exact().is_some_and(|bytes| bytes <= REPLAY_BYTES_MAX);
        let payload = if body.is_end_stream() {
            Payload::Whole(None)
        } else if idempotent && small {
            let whole = body.collect().await;
            let whole = whole.map_err(|_| Refusal::Bad("the body broke off".to_owned()))?;
            match whole.trailers() {
                None => Payload::Whole(Some(whole.to_bytes())),
                Some(_) => return Err(Refusal::Bad("trailers after a body of known length".to_owned())),
            }
        } else {
            Payload::Stream(body)
        };
        Ok(Self {
            head: Some(parts),
            payload,
            watch: Watch::default(),
            tried: Vec::new(),
            idempotent,
            grpc,
        })
    }

    async fn run(&mut self, shared: &Arc<Shared>, route: &Arc<Route>) -> Result<Answer, Refusal> {
        let mut kept: Option<Box<Answer>> = None;
        let mut last = match route.level {
            Level::Nobody => "there is no endpoint that may be used".to_owned(),
            Level::Healthy | Level::LastResort => String::new(),
        };
        let mut reached = false;
        for nth in 1..=shared.settings.tries_max {
            let far = nth > 1 && nth == shared.settings.tries_max;
            // After a broken connection the only endpoint is worth a second try: it may have restarted.
            let again = || if reached { route.pick(&[], false) } else { None };
            let Some(member) = route.pick(&self.tried, far).or_else(again).cloned() else {
                break;
            };
            self.tried.push(Arc::clone(&member));
            let (retry, seen) = match self.attempt(shared, route, &member).await {
                Tried::Answered(answer) => return Ok(*answer),
                Tried::Faulty(answer) => {
                    kept = Some(answer);
                    reached = true;
                    (true, true)
                }
                Tried::Failed { reason, unseen } => {
                    last = reason;
                    reached |= !unseen;
                    (unseen || self.idempotent, !unseen)
                }
            };
            if self.watch.failed() {
                return Err(Refusal::Bad("the body broke off or is framed wrongly".to_owned()));
            }
            // What nobody has seen loads nobody: only the rest is charged to the budget.
            let now = shared.health.clock.elapsed();
            if !retry || !self.can_send() || nth == shared.settings.tries_max || seen && !shared.budget.retry(now) {
                break;
            }
            shared.meters.retries.increment(1);
        }
        let (target, reason) = (route.label(), last);
        if let Some(answer) = kept {
            return kept_answer(*answer, self.grpc, target);
        }
        Err(if reached {
            Refusal::Broken { target, reason }
        } else {
            Refusal::Unreachable { target, reason }
        })
    }

    fn can_send(&self) -> bool {
        self.head.is_some() && !matches!(self.payload, Payload::Gone)
    }

    async fn attempt(&mut self, shared: &Arc<Shared>, route: &Route, member: &Arc<Member>) -> Tried {
        let began = shared.health.clock.elapsed();
        let in_flight = member.record.begin();
        let target = &route.target;
        let lease = match member
            .lane
            .acquire(&shared.pool, member, &target.service, target.port)
            .await
        {
            Ok(lease) => lease,
            Err(fault) => {
                member.meters.failed();
                return Tried::Failed {
                    reason: fault.to_string(),
                    unseen: true,
                };
            }
        };
        let Some(request) = self.request() else {
            return Tried::Failed {
                reason: "its body is spent".to_owned(),
                unseen: false,
            };
        };
        match lease.send(request).await {
            Ok(response) => {
                let serving = Serving::new(lease, in_flight);
                self.answered(shared, member, response, serving, began)
            }
            Err(mut error) => {
                let unsent = error.take_message();
                let reason = format!("endpoint {}: {}", member.endpoint.id, chain_text(error.error()));
                let broke = Broke::of(error.error());
                if let Some(request) = unsent {
                    self.take_back(request);
                    return Tried::Failed { reason, unseen: true };
                }
                self.note(shared, member, &lease, broke);
                Tried::Failed {
                    reason,
                    unseen: broke == Broke::Refused,
                }
            }
        }
    }

    /// The request for one try. Hands the head over for good only when it can not be sent a second time.
    fn request(&mut self) -> Option<Request<Carried>> {
        match std::mem::replace(&mut self.payload, Payload::Gone) {
            Payload::Whole(bytes) => {
                let body = replay(&bytes);
                self.payload = Payload::Whole(bytes);
                Some(Request::from_parts(self.head.clone()?, body))
            }
            Payload::Stream(body) => {
                let body = Carried::watched(body, self.watch.clone());
                Some(Request::from_parts(self.head.take()?, body))
            }
            Payload::Gone => None,
        }
    }

    /// A request that hyper gave back unsent.
    fn take_back(&mut self, request: Request<Carried>) {
        let (head, body) = request.into_parts();
        if let Carried::Stream { inner, .. } = body {
            self.head = Some(head);
            self.payload = Payload::Stream(inner);
        }
    }

    fn note(&self, shared: &Arc<Shared>, member: &Member, lease: &Lease, broke: Broke) {
        member.meters.failed();
        match broke {
            // Its own limit, not a fault.
            Broke::Refused => {}
            Broke::Silent => {
                shared.health.failed(&member.record, Fault::Lost, member.has_others);
                // A silent endpoint and a silent gateway look alike from here; a trial of the gateway tells.
                if let Some(gateway) = lease.gateway() {
                    gateway.record.suspect();
                    shared.health.wake.notify_one();
                }
            }
            // The application's caller may have broken off its own body.
            Broke::Reset | Broke::Connection if self.watch.failed() => {}
            Broke::Reset | Broke::Connection => {
                shared.health.failed(&member.record, Fault::Errors, member.has_others);
            }
        }
    }

    fn answered(
        &self,
        shared: &Arc<Shared>,
        member: &Arc<Member>,
        response: Response<Incoming>,
        serving: Serving,
        began: Duration,
    ) -> Tried {
        let status = response.status();
        member.meters.answered(status);
        let reason = response.headers().get(REASON).and_then(|reason| reason.to_str().ok());
        let unseen = reason.is_some_and(|reason| UNSEEN.contains(&reason));
        if unseen {
            shared.health.failed(&member.record, Fault::Connect, member.has_others);
        } else if retry::is_fault(status) {
            shared.health.failed(&member.record, Fault::Errors, member.has_others);
        } else {
            shared.health.succeeded(&member.record, began);
        }
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        let answer = Box::new(Response::from_parts(parts, Carried::guarded(body, serving)));
        // A far proxy's refusal is kept even where nothing better can come: a gRPC caller needs it in its own form.
        let resend = (unseen || self.idempotent) && self.can_send();
        let better = retry::is_passing_fault(status) && (resend || unseen && self.grpc);
        if better {
            Tried::Faulty(answer)
        } else {
            Tried::Answered(answer)
        }
    }
}

/// The answer of a fault that nobody bettered. What a far proxy refused becomes a refusal of our own for gRPC callers.
fn kept_answer(answer: Answer, grpc: bool, target: String) -> Result<Answer, Refusal> {
    match answer.headers().get(REASON).and_then(|reason| reason.to_str().ok()) {
        Some(reason) if grpc => {
            let reason = format!("its proxy answered {reason}");
            Err(Refusal::Unreachable { target, reason })
        }
        _ => Ok(answer),
    }
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Carried::empty());
    *answer.status_mut() = status;
    answer
}

/// The method of an extended CONNECT.
pub(crate) const EXTENDED: Method = Method::CONNECT;
