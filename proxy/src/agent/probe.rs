//! Asks the application how it is. A service begins unhealthy and is ready after its first successes, so that nobody calls it
//! before it listens; so many failures in a row take it out again.

use std::{future::Future, net::SocketAddr, process::Stdio, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use mesh::{
    ops::{Metrics, Section},
    runtime::{OnExit, Tasks},
};
use thiserror::Error;
use tokio::{net::TcpStream, process::Command, sync::watch};
use tracing::{info, warn};

use crate::config::LocalService;

/// Longest answer to a gRPC health check that is read.
const GRPC_ANSWER_BYTES_MAX: usize = 4096;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Nothing: ready at once, and for ever.
    None,
    /// Whether the port accepts connections. The default.
    Tcp,
    /// `GET path` answers 200 to 399.
    Http {
        /// With its leading slash.
        path: String,
    },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// As the health protocol names it; empty = the whole server.
        service: String,
    },
    /// The command ends with 0.
    Exec {
        /// Program and arguments; no shell is between.
        command: Vec<String>,
    },
}

/// How an application is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// `kind`, with `path`, `service` or `command`.
    pub question: Question,
    /// `interval`: between two questions. Default 2 s.
    pub interval: Duration,
    /// `timeout`: for an answer. Default 1 s.
    pub timeout: Duration,
    /// `healthy_after`: successes in a row that make it ready. Default 1.
    pub healthy_after: u32,
    /// `unhealthy_after`: failures in a row that make it unhealthy. Default 3: one lost packet takes nothing out.
    pub unhealthy_after: u32,
}

impl Health {
    /// Reads a `[service.health]` table and ends it.
    pub(crate) fn read(section: &Section) -> Self {
        let kind = section.or("kind", "tcp".to_owned());
        let text = |key: &str, kinds: &str, default: &str| {
            let given = section.optional::<String>(key);
            if given.is_some() && kind != kinds {
                section.fault(
                    key,
                    format!("is of use with kind = \"{kinds}\" only, and this is \"{kind}\""),
                );
            }
            given.unwrap_or_else(|| default.to_owned())
        };
        let path = text("path", "http", "/");
        let service = text("service", "grpc", "");
        let command = section.optional::<Vec<String>>("command");
        if command.is_some() && kind != "exec" {
            section.fault(
                "command",
                format!("is of use with kind = \"exec\" only, and this is \"{kind}\""),
            );
        }
        let question = match kind.as_str() {
            "none" => Question::None,
            "tcp" => Question::Tcp,
            "http" => {
                if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
                    section.fault("path", format!("{path:?} is no path; write for example \"/healthz\""));
                }
                Question::Http { path }
            }
            "grpc" => Question::Grpc { service },
            "exec" => {
                let command = command.unwrap_or_default();
                if command.is_empty() {
                    section.fault("command", "is missing; write for example [\"/bin/check\", \"--fast\"]");
                }
                Question::Exec { command }
            }
            other => {
                section.fault(
                    "kind",
                    format!("{other:?} is no check; use none, tcp, http, grpc or exec"),
                );
                Question::None
            }
        };
        let health = Self {
            question,
            interval: section.or("interval", Duration::from_secs(2)),
            timeout: section.or("timeout", Duration::from_secs(1)),
            healthy_after: section.or("healthy_after", 1),
            unhealthy_after: section.or("unhealthy_after", 3),
        };
        for (key, is_zero) in [
            ("interval", health.interval.is_zero()),
            ("timeout", health.timeout.is_zero()),
            ("healthy_after", health.healthy_after == 0),
            ("unhealthy_after", health.unhealthy_after == 0),
        ] {
            if is_zero {
                section.fault(key, "must be more than 0");
            }
        }
        section.finish_section();
        health
    }
}

/// Turns single answers into a state that does not flutter.
#[derive(Clone, Debug)]
struct Streak {
    is_healthy: bool,
    /// Answers in a row that contradict the state.
    against: u32,
    healthy_after: u32,
    unhealthy_after: u32,
}

impl Streak {
    fn new(health: &Health) -> Self {
        Self {
            is_healthy: false,
            against: 0,
            healthy_after: health.healthy_after,
            unhealthy_after: health.unhealthy_after,
        }
    }

    /// Whether the state changed.
    fn step(&mut self, success: bool) -> bool {
        if success == self.is_healthy {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = if success {
            self.healthy_after
        } else {
            self.unhealthy_after
        };
        if self.against < enough {
            return false;
        }
        self.is_healthy = success;
        self.against = 0;
        true
    }
}

/// Why a question counts as failed.
#[derive(Debug, Error)]
pub(crate) enum ProbeError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("no HTTP answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("answers {0}")]
    Status(StatusCode),
    #[error("does not say that it is serving")]
    NotServing,
    #[error("command cannot run: {0}")]
    Spawn(#[source] std::io::Error),
    #[error("command ended with {0}")]
    Exit(std::process::ExitStatus),
}

/// Asks once.
pub(crate) async fn ask(health: &Health, app: SocketAddr, tasks: &Tasks) -> Result<(), ProbeError> {
    let question = async {
        match &health.question {
            Question::None => Ok(()),
            Question::Tcp => TcpStream::connect(app).await.map(drop).map_err(ProbeError::Connect),
            Question::Http { path } => ask_http(app, path).await,
            Question::Grpc { service } => ask_grpc(app, service, tasks).await,
            Question::Exec { command } => ask_command(command).await,
        }
    };
    let timely = tokio::time::timeout(health.timeout, question).await;
    timely.unwrap_or(Err(ProbeError::Timeout(health.timeout)))
}

async fn connect(app: SocketAddr) -> Result<TokioIo<TcpStream>, ProbeError> {
    let stream = TcpStream::connect(app).await.map_err(ProbeError::Connect)?;
    Ok(TokioIo::new(stream))
}

/// A request with constant parts and a checked path.
fn request(app: SocketAddr, method: &str, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.parse().unwrap_or_default();
    *request.uri_mut() = path.parse().unwrap_or_default();
    if let Ok(host) = app.to_string().parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    let agent = header::HeaderValue::from_static("isthmus-health");
    request.headers_mut().insert(header::USER_AGENT, agent);
    request
}

async fn ask_http(app: SocketAddr, path: &str) -> Result<(), ProbeError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(connect(app).await?).await?;
    let exchange = async {
        let response = sender.send_request(request(app, "GET", path, Bytes::new())).await?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(ProbeError::Status(status))
        }
    };
    // The connection is driven here and dropped with the answer: a probe leaves nothing behind.
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(ended.err().map_or(ProbeError::NotServing, Into::into)),
    }
}

async fn ask_grpc(app: SocketAddr, service: &str, tasks: &Tasks) -> Result<(), ProbeError> {
    let io = connect(app).await?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(Executor(tasks.clone()), io).await?;
    let exchange = async {
        let path = format!("http://{app}/grpc.health.v1.Health/Check");
        let mut request = request(app, "POST", &path, grpc_question(service));
        request.headers_mut().remove(header::HOST);
        let kind = header::HeaderValue::from_static("application/grpc");
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        let te = header::HeaderValue::from_static("trailers");
        request.headers_mut().insert(header::TE, te);
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(ProbeError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), GRPC_ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|_| ProbeError::NotServing)?.to_bytes();
        if says_serving(&body) {
            Ok(())
        } else {
            Err(ProbeError::NotServing)
        }
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(ended.err().map_or(ProbeError::NotServing, Into::into)),
    }
}

/// `HealthCheckRequest { service = 1 }` in a gRPC frame. Names are settings and short, so that one byte holds the length.
fn grpc_question(service: &str) -> Bytes {
    let service = &service.as_bytes()[..service.len().min(127)];
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, service.len() as u8]);
        message.extend(service);
    }
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// Whether a gRPC frame holds `HealthCheckResponse { status = SERVING }`.
fn says_serving(frame: &[u8]) -> bool {
    // An uncompressed frame, whose message has field 1 (varint) with 1. Servers send no other field.
    matches!(frame, [0, 0, 0, 0, 2, 0x08, 1])
}

async fn ask_command(command: &[String]) -> Result<(), ProbeError> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(ProbeError::Spawn)?;
    let status = child.wait().await.map_err(ProbeError::Spawn)?;
    if status.success() {
        Ok(())
    } else {
        Err(ProbeError::Exit(status))
    }
}

/// Lets hyper start its part of a connection among the supervised tasks.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("health-check", OnExit::Ignore, async move {
            // What it returns is for nobody: its errors reach the question.
            let _ = future.await;
        });
    }
}

/// Asks about every service until the tasks' stop. The answer is whether all are healthy: the workload's endpoints share one
/// state. A workload without services is healthy.
pub(crate) fn watch(services: &[LocalService], tasks: &Tasks, metrics: &Metrics) -> watch::Receiver<bool> {
    let first: Vec<bool> = services
        .iter()
        .map(|service| service.health.question == Question::None)
        .collect();
    let (healthy, all) = watch::channel(first.iter().all(|healthy| *healthy));
    let (each, states) = watch::channel(first);
    for (at, service) in services.iter().enumerate() {
        if service.health.question == Question::None {
            continue;
        }
        let gauge = metrics.gauge(
            "isthmus_app_healthy",
            "1 while the application's health check succeeds",
            &[("service", &format!("{}:{}", service.name, service.port))],
        );
        let (service, each, tasks_inside) = (service.clone(), each.clone(), tasks.clone());
        tasks.spawn("health", OnExit::StopProcess, async move {
            let stop = tasks_inside.stop().clone();
            let told = |is_healthy: bool| {
                gauge.set(if is_healthy { 1.0 } else { 0.0 });
                each.send_modify(|states| states[at] = is_healthy);
            };
            tokio::select! {
                () = stop.ordered() => {}
                () = follow(&service, &tasks_inside, told) => {}
            }
        });
    }
    let stop = tasks.stop().clone();
    let mut states = states;
    tasks.spawn("health-of-all", OnExit::StopProcess, async move {
        let join = async {
            while states.changed().await.is_ok() {
                let all = states.borrow_and_update().iter().all(|healthy| *healthy);
                healthy.send_if_modified(|before| std::mem::replace(before, all) != all);
            }
        };
        tokio::select! {
            () = stop.ordered() => {}
            () = join => {}
        }
        // Where nobody is asked the answer stands until the stop.
        stop.ordered().await;
    });
    all
}

async fn follow(service: &LocalService, tasks: &Tasks, told: impl Fn(bool)) {
    let mut streak = Streak::new(&service.health);
    let mut interval = tokio::time::interval(service.health.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    told(false);
    loop {
        interval.tick().await;
        let answer = ask(&service.health, service.app, tasks).await;
        if !streak.step(answer.is_ok()) {
            continue;
        }
        told(streak.is_healthy);
        match answer {
            Ok(()) => info!(service = %service.name, port = service.port, "application is healthy"),
            Err(error) => warn!(service = %service.name, port = service.port, %error, "application is not healthy"),
        }
    }
}

#[cfg(test)]
mod tests;
