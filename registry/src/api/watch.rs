//! The gRPC side of the hub: who may watch what, requests in, updates out. What an update holds is decided in `crate::watch`.

use std::{sync::Arc, time::Duration};

use mesh::{
    identity::Role,
    model::{ClusterId, ServiceName, Timestamp, Update},
    net::grpc::{Caller, Hangup, MESSAGE_BYTES_MAX},
    runtime::{OnExit, Stop, Tasks, clock},
};
use proto::registry::v1::{
    self as pb,
    watch_request::Kind,
    watch_server::{Watch, WatchServer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::turns::{CallersTurns, Turns};
use crate::{
    catalog::State,
    watch::{Hub, Scope, Subscriber, Ticket, chunks},
};

/// How long a reader may take for one update: longer than a full one takes on a slow line, and so long at most is an update
/// kept for a reader that does not read.
const SLOW_MAX: Duration = Duration::from_secs(60);
/// Longest message of a subscriber: as many services as an interest may name.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// How long a new stream may take to say what it wants.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages between the subscriber and its connection; when it is full, changes are merged instead.
const OUT_MAX: usize = 2;
/// Most services of one interest; a proxy bounds what it wants far below.
const INTEREST_SERVICES_MAX: usize = 10_000;

/// The service.
#[derive(Clone)]
pub struct WatchService {
    hub: Arc<Hub>,
    tasks: Tasks,
    turns: Turns,
    slow_max: Duration,
}

impl WatchService {
    /// The gRPC server over a hub; each stream is a task of `tasks` and ends with them.
    #[must_use]
    pub fn server(hub: Arc<Hub>, tasks: Tasks) -> WatchServer<Self> {
        Self::with_patience(hub, tasks, SLOW_MAX)
    }

    /// As [`WatchService::server`], with another patience for slow readers.
    #[must_use]
    pub fn with_patience(hub: Arc<Hub>, tasks: Tasks, slow_max: Duration) -> WatchServer<Self> {
        let turns = Turns::default();
        WatchServer::new(Self {
            hub,
            tasks,
            turns,
            slow_max,
        })
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type SubscribeStream = ReceiverStream<Result<pb::Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = Caller::of(&request).cloned();
        let hangup = Hangup::of(&request);
        let role = admit(caller.as_ref(), &self.hub.state())?;
        let mut incoming = request.into_inner();
        let start = tokio::time::timeout(START_TIMEOUT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no start message in time"))??;
        let Some(Kind::Start(start)) = start.and_then(|request| request.kind) else {
            return Err(Status::invalid_argument("the first message must be start"));
        };
        let interest = start.interest.unwrap_or_default();
        let sequence = interest.sequence;
        let scope = scope(interest, role)?;
        let shown = start.shown.map(|shown| self::scope(shown, role)).transpose()?;
        let ticket = self
            .hub
            .subscribers()
            .enter(&start.subscriber, &start.version)
            .ok_or_else(|| {
                Status::resource_exhausted("this node has as many subscribers as it takes; ask another node")
            })?;
        let held = start.held.map(Into::into);
        let stream = Stream {
            subscriber: match shown {
                Some(shown) => Subscriber::resumed(&self.hub, scope, held, shown),
                None => Subscriber::new(&self.hub, scope, held),
            },
            ticket,
            role,
            sequence,
            hangup,
            turns: self.turns.of(caller.and_then(|caller| caller.id)),
            slow_max: self.slow_max,
        };
        let (out, updates) = mpsc::channel(OUT_MAX);
        let stop = self.tasks.stop().clone();
        self.tasks.spawn("watch-stream", OnExit::Ignore, async move {
            if let Err(status) = stream.run(incoming, &out, &stop).await {
                // The subscriber may be gone already, or not read; then nobody wants to know.
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(updates)))
    }
}

/// What the caller is to this region; none for workloads.
fn admit(caller: Option<&Caller>, state: &State) -> Result<Option<Role>, Status> {
    let id = caller.and_then(|caller| Some((caller, caller.id.as_ref()?)));
    let Some((caller, id)) = id else {
        return Err(Status::unauthenticated("show a certificate of this region to watch it"));
    };
    let domain = state
        .trust_domain()
        .ok_or_else(|| Status::unavailable("the region is not initialised yet"))?;
    if id.trust_domain() != *domain {
        return Err(Status::permission_denied(format!(
            "{id} is not of trust domain {domain}; watch the registry of its own region"
        )));
    }
    Ok(caller.role(domain))
}

fn scope(interest: pb::Interest, role: Option<Role>) -> Result<Scope, Status> {
    let bad = |fault: String| Status::invalid_argument(format!("interest: {fault}"));
    let kinds = [
        interest.everything || interest.names,
        !interest.services.is_empty(),
        !interest.exported_by_cluster.is_empty(),
    ];
    if kinds.into_iter().filter(|is_set| *is_set).count() > 1 {
        return Err(bad("choose one of everything, services and exported_by_cluster".into()));
    }
    if role == Some(Role::Gateway) && interest.exported_by_cluster.is_empty() {
        return Err(Status::permission_denied(
            "a gateway watches exported_by_cluster: it needs nothing else",
        ));
    }
    if interest.everything && !interest.names {
        return Ok(Scope::Everything);
    }
    if !interest.exported_by_cluster.is_empty() {
        let cluster = ClusterId::parse(&interest.exported_by_cluster).map_err(|error| bad(error.to_string()))?;
        return Ok(Scope::ExportedByCluster(cluster));
    }
    let services = if interest.names {
        &interest.endpoints_of
    } else {
        &interest.services
    };
    if services.len() > INTEREST_SERVICES_MAX {
        return Err(bad(format!(
            "{} services are more than {INTEREST_SERVICES_MAX}; watch everything",
            services.len()
        )));
    }
    let parsed = services.iter().map(|name| ServiceName::parse(name));
    let services = parsed
        .collect::<Result<_, _>>()
        .map_err(|error| bad(error.to_string()))?;
    Ok(if interest.names {
        Scope::Names(services)
    } else {
        Scope::Services(services)
    })
}

struct Stream {
    subscriber: Subscriber,
    ticket: Ticket,
    role: Option<Role>,
    /// Of the interest that updates are made for.
    sequence: u64,
    hangup: Hangup,
    turns: CallersTurns,
    slow_max: Duration,
}

impl Stream {
    async fn run(
        mut self,
        mut incoming: Streaming<pb::WatchRequest>,
        out: &mpsc::Sender<Result<pb::Update, Status>>,
        stop: &Stop,
    ) -> Result<(), Status> {
        // The first update is the large one, and of one caller only few are made at a time.
        let mut turn = Some(tokio::select! {
            turn = self.turns.take() => turn,
            () = out.closed() => return Ok(()),
            () = stop.ordered() => return Err(Status::unavailable("this node stops; ask another one")),
        });
        loop {
            // All arms may be dropped halfway: none of them has taken anything then.
            tokio::select! {
                () = stop.ordered() => return Err(Status::unavailable("this node stops; ask another one")),
                () = out.closed() => return Ok(()),
                request = incoming.message() => match request? {
                    Some(request) => self.hear(request)?,
                    None => return Ok(()),
                },
                update = self.subscriber.next() => {
                    let Some(update) = update else {
                        return Err(Status::unavailable("this node stops; ask another one"));
                    };
                    let (held, committed_at) = (update.held, update.committed_at);
                    let sent = tokio::time::timeout(self.slow_max, send(update, self.sequence, out)).await;
                    let Ok(sent) = sent else {
                        self.ticket.cut();
                        self.hangup.cut();
                        return Err(Status::deadline_exceeded("an update was not read in time; subscribe again"));
                    };
                    if sent.is_none() {
                        return Ok(());
                    }
                    turn.take();
                    self.ticket.sent(held, clock::wall(), committed_at);
                }
            }
        }
    }

    fn hear(&mut self, request: pb::WatchRequest) -> Result<(), Status> {
        match request.kind {
            Some(Kind::Interest(interest)) => {
                self.sequence = interest.sequence;
                self.subscriber.set_scope(scope(interest, self.role)?);
            }
            Some(Kind::Ack(ack)) => {
                let held = ack.held.unwrap_or_default();
                self.ticket.acknowledged(held.into(), Timestamp(ack.applied_at_ms));
            }
            Some(Kind::Start(_)) => return Err(Status::invalid_argument("the stream has started already")),
            // A newer client's message: nothing that this version could do.
            None => {}
        }
        Ok(())
    }
}

/// Hands an update over, as fast as it is read; none when the reader is gone.
async fn send(update: Update, made_for: u64, out: &mpsc::Sender<Result<pb::Update, Status>>) -> Option<()> {
    for mut chunk in chunks(update) {
        chunk.interest = made_for;
        out.send(Ok(chunk)).await.ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::World;

    fn caller(id: Option<&str>) -> Caller {
        Caller {
            id: id.map(|id| id.parse().unwrap()),
            address: ([127, 0, 0, 1], 1).into(),
        }
    }

    #[test]
    fn only_members_of_the_region_may_watch() {
        let state = World::new("eu").state;
        let code = |id| admit(Some(&caller(id)), &state).map_err(|status| status.code());
        assert_eq!(admit(None, &state).unwrap_err().code(), tonic::Code::Unauthenticated);
        assert_eq!(code(None), Err(tonic::Code::Unauthenticated));
        assert_eq!(
            code(Some("spiffe://us.test/ns/shop/sa/pay")),
            Err(tonic::Code::PermissionDenied)
        );
        assert_eq!(
            code(Some("spiffe://us.test/ns/isthmus-system/sa/registry")),
            Err(tonic::Code::PermissionDenied)
        );
        assert_eq!(code(Some("spiffe://eu.test/ns/shop/sa/pay")), Ok(None));
        let gateway = "spiffe://eu.test/ns/isthmus-system/sa/gateway";
        assert_eq!(code(Some(gateway)), Ok(Some(Role::Gateway)));
    }

    #[test]
    fn an_interest_is_one_thing_and_a_gateways_is_its_cluster() {
        let everything = pb::Interest {
            everything: true,
            ..pb::Interest::default()
        };
        let cluster = pb::Interest {
            exported_by_cluster: "eu-1".into(),
            ..pb::Interest::default()
        };
        let both = pb::Interest {
            everything: true,
            ..cluster.clone()
        };
        let services = pb::Interest {
            services: vec!["pay.shop".into()],
            ..pb::Interest::default()
        };
        let misspelt = pb::Interest {
            services: vec!["pay".into()],
            ..pb::Interest::default()
        };
        let code = |interest: &pb::Interest, role| scope(interest.clone(), role).map_err(|status| status.code());
        assert_eq!(code(&everything, None), Ok(Scope::Everything));
        assert!(matches!(code(&services, None), Ok(Scope::Services(names)) if names.len() == 1));
        // `everything` comes with it for registries that know no names.
        let names = pb::Interest {
            everything: true,
            names: true,
            endpoints_of: vec!["pay.shop".into()],
            ..pb::Interest::default()
        };
        assert!(matches!(code(&names, None), Ok(Scope::Names(names)) if names.len() == 1));
        assert_eq!(code(&names, Some(Role::Gateway)), Err(tonic::Code::PermissionDenied));
        assert!(matches!(
            code(&cluster, Some(Role::Gateway)),
            Ok(Scope::ExportedByCluster(_))
        ));
        assert_eq!(
            code(&everything, Some(Role::Gateway)),
            Err(tonic::Code::PermissionDenied)
        );
        for bad in [&both, &misspelt] {
            assert_eq!(code(bad, None), Err(tonic::Code::InvalidArgument));
        }
    }
}
