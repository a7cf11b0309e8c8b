//! The operator's calls, with the operator's own credentials. A refusal comes back as its text.

use cli::Client;
use proto::{
    admin::v1::{self as pb, admin_client::AdminClient},
    registry::v1::{Endpoint, Quota, Tenant},
};
use tonic::{Response, Status, transport::Channel};

const TOKEN_TTL_SECONDS: u64 = 600;

/// An operator of one region.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

/// What a call gives, or the text of its refusal.
pub type Said<T> = Result<T, String>;

impl Admin {
    /// Calls through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// One call of the API.
    ///
    /// # Errors
    /// The text that the operator would read.
    pub async fn call<R, F>(&self, call: impl FnOnce(AdminClient<Channel>) -> F) -> Said<R>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.client.call(call).await.map_err(|failure| failure.to_string())
    }

    fn read(&self) -> Option<pb::ReadOptions> {
        self.client.read()
    }

    /// A join token for one workload.
    pub async fn token(&self, namespace: &str, service_account: &str) -> String {
        let request = pb::CreateTokenRequest {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            ttl_seconds: TOKEN_TTL_SECONDS,
            uses: 1,
        };
        let token = self
            .call(|mut admin| async move { admin.create_token(request).await })
            .await;
        token.unwrap().token
    }

    /// Everything that the catalogue holds, as `registry snapshot save` writes it.
    pub async fn snapshot(&self) -> Vec<u8> {
        let request = pb::SaveSnapshotRequest::default();
        let chunks = self
            .call(|mut admin| async move { admin.save_snapshot(request).await })
            .await;
        let mut chunks = chunks.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.message().await.unwrap() {
            bytes.extend_from_slice(&chunk.data);
        }
        bytes
    }

    /// A token for one more node.
    pub async fn node_token(&self) -> String {
        let request = pb::CreateNodeTokenRequest {
            ttl_seconds: TOKEN_TTL_SECONDS,
        };
        let token = self.call(|mut admin| async move { admin.create_node_token(request).await });
        token.await.unwrap().token
    }

    /// A peering token that only `for_region` may use.
    pub async fn peer_token(&self, for_region: &str) -> String {
        let request = pb::CreatePeerTokenRequest {
            ttl_seconds: TOKEN_TTL_SECONDS,
            for_region: for_region.to_owned(),
        };
        let token = self.call(|mut admin| async move { admin.create_peer_token(request).await });
        token.await.unwrap().token
    }

    /// Joins the region that made the token.
    ///
    /// # Errors
    /// The refusal.
    pub async fn join_peer(&self, token: String) -> Said<pb::Peer> {
        self.call(|mut admin| async move { admin.join_peer(pb::JoinPeerRequest { token }).await })
            .await
    }

    /// Exports a service to the regions named, or to all when none is.
    pub async fn export(&self, service: &str, to: &[&str]) {
        let export = pb::Export {
            service: service.to_owned(),
            to_all: to.is_empty(),
            to: to.iter().map(|&region| region.to_owned()).collect(),
            created_at_ms: 0,
        };
        self.call(|mut admin| async move { admin.put_export(export).await })
            .await
            .unwrap();
    }

    /// Takes an export back.
    pub async fn unexport(&self, service: &str) {
        let request = pb::RemoveExportRequest {
            service: service.to_owned(),
        };
        self.call(|mut admin| async move { admin.remove_export(request).await })
            .await
            .unwrap();
    }

    /// Accepts only `services` from a peer; none means everything.
    pub async fn import(&self, peer: &str, services: Option<&[&str]>) {
        let policy = pb::ImportPolicy {
            peer: peer.to_owned(),
            all: services.is_none(),
            services: services
                .unwrap_or_default()
                .iter()
                .map(|&name| name.to_owned())
                .collect(),
        };
        self.call(|mut admin| async move { admin.put_import_policy(policy).await })
            .await
            .unwrap();
    }

    /// Gives a namespace's tenant of the same name a quota of requests.
    ///
    /// # Errors
    /// The refusal.
    pub async fn tenant(&self, name: &str, requests_per_second: f64, burst: f64) -> Said<pb::Committed> {
        self.put_tenant(name, vec![name.to_owned()], requests_per_second, burst)
            .await
    }

    /// A tenant of these namespaces, with a burst like its rate.
    ///
    /// # Errors
    /// The refusal.
    pub async fn tenant_of(&self, name: &str, namespaces: &[String], rate: f64) -> Said<pb::Committed> {
        self.put_tenant(name, namespaces.to_vec(), rate, rate).await
    }

    async fn put_tenant(&self, id: &str, namespaces: Vec<String>, rate: f64, burst: f64) -> Said<pb::Committed> {
        let tenant = Tenant {
            id: id.to_owned(),
            namespaces,
            quota: Some(Quota {
                requests_per_second: rate,
                burst,
                services: 0,
                endpoints: 0,
            }),
            region: String::new(),
        };
        let request = pb::PutTenantRequest { tenant: Some(tenant) };
        self.call(|mut admin| async move { admin.put_tenant(request).await })
            .await
    }

    /// All tenants.
    ///
    /// # Errors
    /// When there is no linearizable answer.
    pub async fn tenants(&self) -> Said<Vec<pb::TenantRow>> {
        let options = self.read().unwrap_or_default();
        let list = self
            .call(|mut admin| async move { admin.list_tenants(options).await })
            .await?;
        Ok(list.tenants)
    }

    /// Names of all services.
    ///
    /// # Errors
    /// When there is no linearizable answer.
    pub async fn services(&self) -> Said<Vec<String>> {
        let request = pb::ListServicesRequest {
            read: self.read(),
            namespace: String::new(),
        };
        let list = self
            .call(|mut admin| async move { admin.list_services(request).await })
            .await?;
        let services = list.services.into_iter().filter_map(|row| row.service);
        Ok(services
            .map(|service| format!("{}.{}", service.name, service.namespace))
            .collect())
    }

    /// Endpoints of a service; none when it is not known.
    pub async fn endpoints(&self, service: &str) -> Vec<Endpoint> {
        let request = pb::ListEndpointsRequest {
            read: self.read(),
            service: service.to_owned(),
        };
        let list = self.call(|mut admin| async move { admin.list_endpoints(request).await });
        list.await.map(|list| list.endpoints).unwrap_or_default()
    }

    /// How the region is.
    ///
    /// # Errors
    /// When there is no linearizable answer.
    pub async fn status(&self) -> Said<pb::Status> {
        let read = self.read();
        self.call(|mut admin| async move { admin.get_status(pb::StatusRequest { read }).await })
            .await
    }

    /// One peer as `status` shows it.
    ///
    /// # Errors
    /// When there is no linearizable answer, or no such peer.
    pub async fn peer(&self, region: &str) -> Said<pb::Peer> {
        let peers = self.status().await?.peers;
        let found = peers.into_iter().find(|peer| peer.region == region);
        found.ok_or_else(|| format!("no peer {region}"))
    }

    /// Removes a registry node.
    ///
    /// # Errors
    /// The refusal.
    pub async fn remove_node(&self, node: u64) -> Said<pb::Committed> {
        self.call(|mut admin| async move { admin.remove_node(pb::RemoveNodeRequest { node }).await })
            .await
    }

    /// Moves a region's traffic away.
    ///
    /// # Errors
    /// The refusal.
    pub async fn evacuate(&self, region: &str, for_seconds: u64) -> Said<pb::Drill> {
        let request = pb::StartDrillRequest {
            region: region.to_owned(),
            percent: 100,
            for_seconds,
            reason: "a story".to_owned(),
            force: false,
        };
        self.call(|mut admin| async move { admin.start_drill(request).await })
            .await
    }

    /// Lets the traffic come back.
    ///
    /// # Errors
    /// The refusal.
    pub async fn end_drill(&self, id: &str) -> Said<pb::Committed> {
        let request = pb::EndDrillRequest { id: id.to_owned() };
        self.call(|mut admin| async move { admin.end_drill(request).await })
            .await
    }

    /// Believes that what mass-loss protection holds is gone.
    ///
    /// # Errors
    /// The refusal.
    pub async fn release_unverified(&self) -> Said<pb::Committed> {
        let request = pb::ReleaseUnverifiedRequest {};
        self.call(|mut admin| async move { admin.release_unverified(request).await })
            .await
    }
}
