//! A subscriber that keeps every message it was ever sent, so that a story can prove that something was never in one.

use mesh::{
    identity::{Expect, Identity, Role},
    net::grpc::{self, Credentials, MESSAGE_BYTES_MAX, Timeouts},
};
use proto::registry::v1::{
    Ack, Held, Interest, Start, Update, WatchRequest, resource, watch_client::WatchClient, watch_request::Kind,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::PATIENCE;

/// See the module.
pub struct Watcher {
    requests: mpsc::Sender<WatchRequest>,
    updates: Streaming<Update>,
    /// Every message so far.
    pub heard: Vec<Update>,
}

impl Watcher {
    /// Begins to watch everything at one node, from a held position or anew.
    pub async fn everything(api: std::net::SocketAddr, identity: Identity, held: Option<Held>) -> Self {
        let interest = Interest {
            everything: true,
            ..Interest::default()
        };
        let expect = Expect::System(Role::Registry, identity.trust_domain());
        let credentials = Credentials::from(identity);
        let channel = grpc::dial(&api.to_string(), &credentials, &expect, Timeouts::default()).await;
        let mut client = WatchClient::new(channel.unwrap()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, outgoing) = mpsc::channel(8);
        let start = Start {
            interest: Some(interest),
            held,
            subscriber: "story".to_owned(),
            version: String::new(),
            shown: None,
        };
        requests.send(request(Kind::Start(start))).await.unwrap();
        let updates = client
            .subscribe(ReceiverStream::new(outgoing))
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            updates,
            heard: Vec::new(),
        }
    }

    /// The next message.
    pub async fn message(&mut self) -> Update {
        let message = tokio::time::timeout(PATIENCE, self.updates.message()).await;
        let update = message
            .expect("an update comes in time")
            .unwrap()
            .expect("the stream goes on");
        self.heard.push(update.clone());
        update
    }

    /// The next whole update, its chunks put together; acknowledged.
    pub async fn update(&mut self) -> Update {
        let mut whole = self.message().await;
        while whole.more {
            let next = self.message().await;
            whole.upserts.extend(next.upserts);
            whole.removed.extend(next.removed);
            (whole.more, whole.held) = (next.more, next.held);
        }
        let ack = Ack {
            held: whole.held,
            applied_at_ms: mesh::runtime::clock::wall().0,
        };
        self.requests.send(request(Kind::Ack(ack))).await.unwrap();
        whole
    }

    /// Takes updates until one that `found` accepts, and returns it.
    pub async fn until(&mut self, found: impl Fn(&Update) -> bool) -> Update {
        loop {
            let update = self.update().await;
            if found(&update) {
                return update;
            }
        }
    }

    /// Whether any message so far named the service, as a record or by its key.
    #[must_use]
    pub fn heard_of(&self, service: &str) -> bool {
        self.heard.iter().any(|update| names(update, service))
    }
}

/// Whether an update carries a record of the service.
#[must_use]
pub fn names(update: &Update, service: &str) -> bool {
    let upserts = update.upserts.iter().filter_map(|resource| resource.kind.as_ref());
    let mut named = upserts.filter_map(|kind| match kind {
        resource::Kind::Service(record) => Some(format!("{}.{}", record.name, record.namespace)),
        resource::Kind::Endpoint(record) => Some(format!("{}.{}", record.service, record.namespace)),
        _ => None,
    });
    named.any(|name| name == service) || update.removed.iter().any(|key| key.contains(service))
}

fn request(kind: Kind) -> WatchRequest {
    WatchRequest { kind: Some(kind) }
}
