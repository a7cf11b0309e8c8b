//! How the lab is formed: in the same steps and with the same calls as an operator's, region by region and then together.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use futures_util::future::try_join_all;
use mesh::runtime::clock;
use proto::{
    admin::v1::{
        CreateNodeTokenRequest, CreatePeerTokenRequest, CreateTokenRequest, Export, JoinPeerRequest, PutTenantRequest,
    },
    registry::v1::{Quota, Tenant},
};
use serde_json::Value;
use tokio::process::Command;

use super::{
    Caller, Lab, Region, get,
    region::{Node, START_PATIENCE},
};
use crate::{
    connect::{Client, credentials},
    failure::{Exit, Failure, Outcome},
};

/// Tokens are used within this time or never.
const TOKEN_TTL_SECONDS: u64 = 600;
/// How long news may take to reach every region when everything has just started.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

impl Lab {
    /// Starts everything and forms the federation; tells `said` about each step.
    ///
    /// # Errors
    /// With the log of the process that failed.
    pub async fn form(&mut self, said: impl Fn(&str)) -> Outcome {
        said("each region: certificate authority, first node, two more nodes by token, gateway, workloads");
        try_join_all(self.regions.iter_mut().map(Region::form)).await?;
        said("peering tokens: a full mesh of regions");
        self.peer().await?;
        said("export of pay.shop in every region, to every peer");
        for region in &self.regions {
            export(&region.admin().await?, "pay.shop").await?;
        }
        said("callers beside the first region");
        let Some(home) = self.regions.first() else {
            return Ok(());
        };
        let admin = home.admin().await?;
        for caller in &mut self.callers {
            caller.form(&admin).await?;
        }
        said("waiting until every caller knows every endpoint and gateway");
        self.settle().await
    }

    async fn peer(&self) -> Outcome {
        for (at, one) in self.regions.iter().enumerate() {
            for other in &self.regions[at + 1..] {
                one.peer_with(other).await?;
            }
        }
        Ok(())
    }

    /// Waits until every caller's proxy knows all copies of `pay.shop` and a gateway of every region.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn settle(&mut self) -> Outcome {
        let endpoints: usize = self.regions.iter().map(|region| region.workloads.len()).sum();
        let gateways = self.regions.len();
        for caller in &mut self.callers {
            let begun = clock::now();
            loop {
                let view = view(caller.admin).await?;
                let (ready, known) = (
                    ready_endpoints(&view, "pay"),
                    view["gateways"].as_array().map_or(0, Vec::len),
                );
                if ready >= endpoints && known >= gateways {
                    break;
                }
                if begun.elapsed() > SETTLE_PATIENCE {
                    return Err(caller.proxy.fault(&format!(
                        "knows {ready} of {endpoints} endpoints and {known} of {gateways} gateways after {SETTLE_PATIENCE:?}"
                    )));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Sets a tenant in the first region; it holds in all.
    ///
    /// # Errors
    /// What the registry answers.
    pub async fn set_tenant(&self, name: &str, requests_per_second: f64) -> Outcome {
        let home = self
            .regions
            .first()
            .ok_or_else(|| Failure::text(Exit::Usage, "the lab has no region"))?;
        set_tenant(&home.admin().await?, name, requests_per_second).await
    }
}

/// Sets a tenant that owns the namespace of its own name.
///
/// # Errors
/// What the registry answers.
pub(crate) async fn set_tenant(admin: &Client, name: &str, requests_per_second: f64) -> Outcome {
    let tenant = Tenant {
        id: name.to_owned(),
        namespaces: vec![name.to_owned()],
        quota: Some(Quota {
            requests_per_second,
            burst: requests_per_second,
            services: 0,
            endpoints: 0,
        }),
        region: String::new(),
    };
    let request = PutTenantRequest { tenant: Some(tenant) };
    admin
        .call(|mut admin| async move { admin.put_tenant(request).await })
        .await?;
    Ok(())
}

/// Offers a service to every peer.
///
/// # Errors
/// What the registry answers.
pub async fn export(admin: &Client, service: &str) -> Outcome {
    let export = Export {
        service: service.to_owned(),
        to_all: true,
        ..Export::default()
    };
    admin
        .call(|mut admin| async move { admin.put_export(export).await })
        .await?;
    Ok(())
}

/// Makes a join token.
///
/// # Errors
/// What the registry answers.
pub async fn join_token(admin: &Client, namespace: &str, service_account: &str) -> Outcome<String> {
    let request = CreateTokenRequest {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        ttl_seconds: TOKEN_TTL_SECONDS,
        uses: 1,
    };
    let token = admin
        .call(|mut admin| async move { admin.create_token(request).await })
        .await?;
    Ok(token.token)
}

/// What a proxy or gateway holds, by its admin address.
///
/// # Errors
/// When it does not answer with a view.
pub async fn view(admin: SocketAddr) -> Outcome<Value> {
    let (_, body) = get(admin, "/view").await?;
    serde_json::from_slice(&body)
        .map_err(|error| Failure::new(Exit::Failed, error).while_doing(format!("view of {admin}")))
}

fn ready_endpoints(view: &Value, service: &str) -> usize {
    let endpoints = view["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["service"] == service && endpoint["state"] == "ready")
        .count()
}

impl Region {
    async fn form(&mut self) -> Outcome {
        let admin = self.form_registry().await?;
        write_token(
            &self.gateway.token,
            &join_token(&admin, "isthmus-system", "gateway").await?,
        )?;
        self.gateway.process.start()?;
        for workload in &mut self.workloads {
            write_token(&workload.token, &join_token(&admin, "shop", "pay").await?)?;
            workload.start()?;
        }
        self.gateway.process.ready(START_PATIENCE).await?;
        for workload in &mut self.workloads {
            workload.process.ready(START_PATIENCE).await?;
        }
        Ok(())
    }

    /// Forms the registry alone: its first node, then the others by token.
    ///
    /// # Errors
    /// With the log of the node that failed.
    pub async fn form_registry(&mut self) -> Outcome<Client> {
        let folder = self.credentials();
        let Some((first, others)) = self.nodes.split_first_mut() else {
            return Err(Failure::text(Exit::Usage, "a region needs at least one registry node"));
        };
        first.initialise().await?;
        first.process.start()?;
        first.process.ready(START_PATIENCE).await?;
        let identity = credentials(&folder)?;
        let admin = Client::dial(&[first.api.to_string()], identity, START_PATIENCE).await?;
        for node in others {
            let request = CreateNodeTokenRequest {
                ttl_seconds: TOKEN_TTL_SECONDS,
            };
            let token = admin
                .call(|mut admin| async move { admin.create_node_token(request).await })
                .await?
                .token;
            node.process.start_with(&["--join", &token], &[])?;
            node.process.ready(START_PATIENCE).await?;
        }
        Ok(admin)
    }

    /// Makes this region a peer of another one, by a token of this one's.
    ///
    /// # Errors
    /// What either registry answers.
    pub async fn peer_with(&self, other: &Self) -> Outcome {
        let request = CreatePeerTokenRequest {
            ttl_seconds: TOKEN_TTL_SECONDS,
            for_region: other.name.clone(),
        };
        let inviter = self.admin().await?;
        let token = inviter
            .call(|mut admin| async move { admin.create_peer_token(request).await })
            .await?
            .token;
        let joiner = other.admin().await?;
        joiner
            .call(|mut admin| async move { admin.join_peer(JoinPeerRequest { token }).await })
            .await
            .map_err(|failure| failure.while_doing(format!("{} does not join {}", other.name, self.name)))?;
        Ok(())
    }
}

impl Caller {
    async fn form(&mut self, admin: &Client) -> Outcome {
        write_token(&self.token, &join_token(admin, &self.name, "caller").await?)?;
        self.proxy.start()?;
        self.proxy.ready(START_PATIENCE).await
    }
}

impl Node {
    /// Runs `isthmus registry init` with the node's configuration, to its end.
    async fn initialise(&self) -> Outcome {
        let mut command = Command::new(self.process.executable());
        command
            .args(["--die-with-parent", "registry", "init", "--config"])
            .arg(&self.config);
        let output = command.kill_on_drop(true).output().await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::text(
            Exit::Failed,
            format!("{}: registry init: {}", self.process.name, said.trim()),
        ))
    }
}

fn write_token(path: &Path, token: &str) -> Outcome {
    Ok(fs::write(path, token)?)
}
