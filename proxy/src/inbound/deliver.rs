//! Delivers requests to the application: HTTP/1.1 over kept connections, or HTTP/2 over one, on loopback. Who calls is
//! written into each request by us and nobody else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, HOST},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    ext::Protocol as UpgradeProtocol,
    upgrade::{OnUpgrade, on},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::{
    identity::SpiffeId,
    model::Protocol,
    net::dial::{DialError, dial_address},
    runtime::{OnExit, Tasks, clock},
};
use tokio::time::Instant;
use tracing::debug;

use super::{Shared, listen::client_cert};
use crate::hop::{
    body::{Carried, Watch},
    exec::Exec,
    headers::{CLIENT_CERT, REASON, is_grpc, strip_hop_by_hop},
    relay::relay,
};

/// Most unused connections that are kept to one port of the application.
const KEPT_MAX: usize = 256;

/// What the mesh gets.
type Answer = Response<Carried<Kept>>;

/// Who calls, on one connection.
pub(crate) struct Caller {
    card: HeaderValue,
}

impl Caller {
    pub(crate) fn new(own: &SpiffeId, caller: SpiffeId) -> Self {
        Self {
            card: client_cert(own, &caller),
        }
    }

    pub(crate) fn card(&self) -> &HeaderValue {
        &self.card
    }
}

/// One port of the application.
pub(crate) struct Application {
    address: SocketAddr,
    protocol: Protocol,
    tasks: Tasks,
    connect_timeout: Duration,
    idle: Duration,
    /// Guards unused connections only, for a few instructions.
    kept: Mutex<Vec<(http1::SendRequest<Carried>, Instant)>>,
    /// The one HTTP/2 connection. Held while it is opened, so that a crowd opens one.
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Carried>>>,
}

/// A connection that goes back to the kept ones when a response has been read.
pub(crate) struct Kept {
    application: Arc<Application>,
    sender: Option<http1::SendRequest<Carried>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take()
            && !sender.is_closed()
        {
            self.application.keep(sender);
        }
    }
}

/// Why the application did not answer.
enum Fault {
    /// It does not accept connections: it has seen nothing.
    Down(DialError),
    /// It broke off, or answered something that is no HTTP.
    Broke(hyper::Error),
}

impl Application {
    pub(crate) fn new(
        address: SocketAddr,
        protocol: Protocol,
        tasks: Tasks,
        connect: Duration,
        idle: Duration,
    ) -> Self {
        Self {
            address,
            protocol,
            tasks,
            connect_timeout: connect,
            idle,
            kept: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<(http1::SendRequest<Carried>, Instant)>> {
        // A list of connections: a panic leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, sender: http1::SendRequest<Carried>) {
        let mut kept = self.kept();
        if kept.len() < KEPT_MAX {
            kept.push((sender, clock::now()));
        }
    }

    /// The connection that was used last, so that the others can grow old.
    fn take_kept(&self) -> Option<http1::SendRequest<Carried>> {
        let now = clock::now();
        let mut kept = self.kept();
        if let Some((_, since)) = kept.first()
            && now.duration_since(*since) >= self.idle
        {
            kept.retain(|(sender, since)| !sender.is_closed() && now.duration_since(*since) < self.idle);
        }
        while let Some((sender, _)) = kept.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn open_http1(&self) -> Result<http1::SendRequest<Carried>, Fault> {
        let stream = dial_address(self.address, self.connect_timeout)
            .await
            .map_err(Fault::Down)?;
        let handshake = http1::Builder::new()
            .handshake::<_, Carried>(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(Fault::Broke)?;
        self.tasks.spawn("application-connection", OnExit::Ignore, async move {
            // How it ended is told to its request; there may be none.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn http2(&self) -> Result<http2::SendRequest<Carried>, Fault> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = dial_address(self.address, self.connect_timeout)
            .await
            .map_err(Fault::Down)?;
        let mut builder = http2::Builder::new(Exec(self.tasks.clone()));
        builder.timer(TokioTimer::new()).initial_stream_window_size(1 << 20);
        builder.initial_connection_window_size(4 << 20);
        let handshake = builder.handshake::<_, Carried>(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(Fault::Broke)?;
        self.tasks.spawn("application-connection", OnExit::Ignore, async move {
            // How it ended is told to its requests; there may be none.
            let _ = connection.await;
        });
        *shared = Some(sender.clone());
        Ok(sender)
    }

    async fn send(self: &Arc<Self>, request: Request<Carried>) -> Result<Answer, Fault> {
        let (response, sender) = match self.protocol {
            Protocol::Http2 | Protocol::Grpc => {
                let mut sender = self.http2().await?;
                let sent = sender.try_send_request(request).await;
                (self.again_http2(sent).await?, None)
            }
            Protocol::Http | Protocol::Tcp => {
                let request = http1_form(request);
                let (response, sender) = self.send_http1(request).await?;
                (response, Some(sender))
            }
        };
        let (parts, body) = response.into_parts();
        let kept = Kept {
            application: Arc::clone(self),
            sender,
        };
        Ok(Response::from_parts(parts, Carried::guarded(body, kept)))
    }

    /// A kept connection may have been closed by the application at this very moment: what was not sent is sent anew.
    async fn send_http1(
        &self,
        mut request: Request<Carried>,
    ) -> Result<(Response<Incoming>, http1::SendRequest<Carried>), Fault> {
        while let Some(mut sender) = self.take_kept() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Fault::Broke(error.into_error())),
                },
            }
        }
        let mut sender = self.open_http1().await?;
        let response = sender.send_request(request).await.map_err(Fault::Broke)?;
        Ok((response, sender))
    }

    async fn again_http2(
        &self,
        sent: Result<Response<Incoming>, TrySendError<Request<Carried>>>,
    ) -> Result<Response<Incoming>, Fault> {
        match sent {
            Ok(response) => Ok(response),
            Err(mut error) => match error.take_message() {
                Some(unsent) => {
                    *self.shared.lock().await = None;
                    let mut sender = self.http2().await?;
                    sender.send_request(unsent).await.map_err(Fault::Broke)
                }
                None => Err(Fault::Broke(error.into_error())),
            },
        }
    }
}

/// Origin-form with Host, as HTTP/1.1 wants it.
fn http1_form(request: Request<Carried>) -> Request<Carried> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(&authority).ok()) {
        parts.headers.insert(HOST, host);
    }
    let path = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    parts.version = Version::HTTP_11;
    if parts.headers.contains_key(header::TE) {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    Request::from_parts(parts, body)
}

/// Delivers one request.
pub(crate) async fn deliver(
    shared: Arc<Shared>,
    application: Arc<Application>,
    caller: Arc<Caller>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let grpc = is_grpc(request.headers());
    let (mut parts, body) = request.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.insert(CLIENT_CERT, caller.card.clone());
    let sent = if let Some(protocol) = parts.extensions.remove::<UpgradeProtocol>() {
        upgrade(&shared, &application, parts, &protocol).await
    } else if parts.method == Method::CONNECT {
        let text = "a plain CONNECT inside the mesh; tunnels have connections of their own";
        return Ok(refuse(StatusCode::BAD_REQUEST, "bad-request", text, grpc));
    } else {
        let body = if http_body::Body::is_end_stream(&body) {
            Carried::empty()
        } else {
            Carried::watched(body, Watch::default())
        };
        application.send(absolute(parts, body)).await
    };
    let answer = sent.map_or_else(
        |fault| match fault {
            Fault::Down(error) => {
                let text = format!("the application does not accept connections: {error}");
                refuse(StatusCode::SERVICE_UNAVAILABLE, "application-down", &text, grpc)
            }
            Fault::Broke(error) => {
                let text = format!("the application broke off before it answered: {error}");
                refuse(StatusCode::BAD_GATEWAY, "application-broke-off", &text, grpc)
            }
        },
        |mut answer| {
            strip_hop_by_hop(answer.headers_mut());
            *answer.version_mut() = Version::HTTP_2;
            answer
        },
    );
    shared.meters.answered(answer.status());
    Ok(answer)
}

/// The form of HTTP/2: the authority in the target.
fn absolute(mut parts: Parts, body: Carried) -> Request<Carried> {
    if parts.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
        let mut uri = parts.uri.clone().into_parts();
        uri.scheme = Some(Scheme::HTTP);
        if let Ok(uri) = Uri::from_parts(uri) {
            parts.uri = uri;
        }
    }
    Request::from_parts(parts, body)
}

async fn upgrade(
    shared: &Arc<Shared>,
    application: &Arc<Application>,
    mut parts: Parts,
    protocol: &UpgradeProtocol,
) -> Result<Answer, Fault> {
    let far = parts.extensions.remove::<OnUpgrade>();
    let token = HeaderValue::from_str(protocol.as_str());
    let (Some(far), Ok(token), Protocol::Http) = (far, token, application.protocol) else {
        let text = "this port cannot be upgraded: its application speaks HTTP/2";
        return Ok(refuse(StatusCode::NOT_IMPLEMENTED, "no-upgrade", text, false));
    };
    parts.method = Method::GET;
    let mut request = http1_form(Request::from_parts(parts, Carried::empty()));
    request
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, token);
    let mut sender = application.open_http1().await?;
    let mut response = sender.send_request(request).await.map_err(Fault::Broke)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if response.status().is_success() {
            // To a CONNECT, success would say that the tunnel stands.
            let text = "the application answered instead of upgrading";
            return Ok(refuse(StatusCode::BAD_GATEWAY, "no-upgrade", text, false));
        }
        let (parts, body) = response.into_parts();
        let kept = Kept {
            application: Arc::clone(application),
            sender: None,
        };
        return Ok(Response::from_parts(parts, Carried::guarded(body, kept)));
    }
    let near = on(&mut response);
    let mut answer = Response::new(Carried::empty());
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    let idle = shared.settings.tunnel_idle;
    let guard = shared.drain.guard();
    shared.tasks.spawn("inbound-upgrade", OnExit::Ignore, async move {
        let _held = (guard, sender);
        let both = async {
            let (far, near) = tokio::try_join!(far, near).map_err(std::io::Error::other)?;
            relay(TokioIo::new(far), TokioIo::new(near), idle).await
        };
        let ended = both.await;
        debug!(?ended, "upgraded connection ended");
    });
    Ok(answer)
}

fn refuse(status: StatusCode, word: &'static str, text: &str, grpc: bool) -> Answer {
    let mut answer = Response::new(Carried::empty());
    answer.headers_mut().insert(REASON, HeaderValue::from_static(word));
    // The caller's proxy reads the status of HTTP; it makes gRPC's of it when it does not try elsewhere.
    if !grpc {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, plain);
        *answer.body_mut() = Carried::text(Bytes::from(format!("isthmus: {text}\n")));
    }
    *answer.status_mut() = status;
    answer
}
