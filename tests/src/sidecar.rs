//! A proxy and, beside it, an application or a client that calls through it.

use std::{fmt::Write as _, net::SocketAddr};

use bytes::Bytes;
use http::Request;
use hyper::body::Body;
use serde_json::Value;

use crate::{
    Application, eventually,
    http::{self as client, Reply, Version},
    part::Part,
    world::Ground,
};

/// What a sidecar is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    id: String,
    pub(crate) namespace: String,
    pub(crate) account: String,
    zone: String,
    capacity_rps: u32,
    services: Vec<(String, u16, &'static str, bool)>,
    upstreams: Vec<(String, u16)>,
}

impl Plan {
    /// A sidecar with this id and service account, in namespace `shop` and zone `a`, which serves nothing.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            namespace: "shop".to_owned(),
            account: id.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned(),
            zone: "a".to_owned(),
            capacity_rps: 0,
            services: Vec::new(),
            upstreams: Vec::new(),
        }
    }

    /// Serves `id`'s own name on port 80: `Plan::http("pay-1")` serves `pay.shop`.
    #[must_use]
    pub fn http(id: &str) -> Self {
        let plan = Self::new(id);
        let name = plan.account.clone();
        plan.serves(&name, 80, "http")
    }

    /// In another namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// In another zone.
    #[must_use]
    pub fn in_zone(mut self, zone: &str) -> Self {
        zone.clone_into(&mut self.zone);
        self
    }

    /// Serves one more port; `http`, `http2`, `grpc` or `tcp`.
    #[must_use]
    pub fn serves(mut self, service: &str, port: u16, protocol: &'static str) -> Self {
        self.services.push((service.to_owned(), port, protocol, false));
        self
    }

    /// Serves a headless service.
    #[must_use]
    pub fn serves_headless(mut self, service: &str, port: u16) -> Self {
        self.services.push((service.to_owned(), port, "http", true));
        self
    }

    /// Reaches a service of opaque TCP through a listener of its own.
    #[must_use]
    pub fn upstream(mut self, service: &str, port: u16) -> Self {
        self.upstreams.push((service.to_owned(), port));
        self
    }
}

/// See the module.
pub struct Sidecar {
    /// Its workload id.
    pub id: String,
    /// The proxy.
    pub proxy: Part,
    /// The application, where it serves something.
    pub application: Option<Application>,
    /// HTTP for other services goes in here.
    pub outbound: SocketAddr,
    /// What the mesh sends.
    pub inbound: SocketAddr,
    /// Names.
    pub dns: SocketAddr,
    /// Admin pages.
    pub pages: SocketAddr,
    upstreams: Vec<SocketAddr>,
    plan: Plan,
}

impl Sidecar {
    pub(crate) fn new(plan: Plan, region: &str, registry: &[String], token: &str, ground: &Ground) -> Self {
        let id = format!("{region}-{}", plan.id);
        let [outbound, inbound, dns, pages] = std::array::from_fn(|_| ground.port());
        let application = (!plan.services.is_empty()).then(|| Application::new(&id, ground.port(), ground.port()));
        let mut text = format!(
            "region = {region:?}\ncluster = {region:?}\nzone = {zone:?}\nregistry = {registry:?}\ndata_dir = {dir:?}\n\
             [workload]\nid = {id:?}\nnamespace = {namespace:?}\nservice_account = {account:?}\naddress = '127.0.0.1'\n\
             capacity_rps = {capacity}\n[identity]\ntoken = {token:?}\n\
             [inbound]\nlisten = '{inbound}'\n[dns]\nlisten = '{dns}'\nupstreams = 'none'\n\
             [admin]\nready = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\npages = '{pages}'\n\
             [drain]\ndelay = '300ms'\ndeadline = '2s'\n\
             [outbound]\nlisten = '{outbound}'\n\
             [outbound.eject]\nbase = '500ms'\nhold = '500ms'\nramp = '1s'\n",
            zone = plan.zone,
            dir = ground.dir().join(&id),
            namespace = plan.namespace,
            account = plan.account,
            capacity = plan.capacity_rps,
        );
        for (name, port, protocol, headless) in &plan.services {
            let application = application.as_ref().unwrap();
            let app = if *protocol == "tcp" {
                application.tcp
            } else {
                application.http
            };
            write!(
                text,
                "[[service]]\nname = {name:?}\nport = {port}\nport_name = '{protocol}-{port}'\nprotocol = '{protocol}'\n\
                 app = '{app}'\nheadless = {headless}\n[service.health]\nkind = 'tcp'\ninterval = '200ms'\n\
                 unhealthy_after = 2\n"
            )
            .unwrap();
        }
        let mut upstreams = Vec::new();
        for (service, port) in &plan.upstreams {
            let listen = ground.port();
            upstreams.push(listen);
            write!(
                text,
                "[[upstream]]\nlisten = '{listen}'\nservice = {service:?}\nport = {port}\n"
            )
            .unwrap();
        }
        let config = proxy::Config::parse(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        let part = Part::new(format!("{id}-proxy"), (pages, "/ready"), move |stop| {
            let config = config.clone();
            async move {
                let running = Box::pin(proxy::start(config, stop)).await?;
                Ok(Box::pin(async move { Ok(running.finish().await?) }) as _)
            }
        });
        Self {
            id,
            proxy: part,
            application,
            outbound,
            inbound,
            dns,
            pages,
            upstreams,
            plan,
        }
    }

    /// Full names of what it serves.
    #[must_use]
    pub fn services(&self) -> Vec<String> {
        let names = self
            .plan
            .services
            .iter()
            .map(|(name, ..)| format!("{name}.{}", self.plan.namespace));
        let mut names: Vec<_> = names.collect();
        names.dedup();
        names
    }

    /// The listener of its only upstream.
    #[must_use]
    pub fn upstream(&self) -> SocketAddr {
        self.upstreams[0]
    }

    /// Starts application and proxy, and waits until both are ready.
    pub async fn start(&self) {
        if let Some(application) = &self.application {
            application.part.start().await;
        }
        self.proxy.start().await;
    }

    /// Stops the proxy in order, then the application.
    pub async fn stop(&self) {
        self.proxy.stop().await;
        if let Some(application) = &self.application {
            application.part.kill().await;
        }
    }

    /// Cuts off the application and the proxy in the same moment.
    pub async fn kill(&self) {
        let application = async {
            if let Some(application) = &self.application {
                application.part.kill().await;
            }
        };
        futures_util::future::join(self.proxy.kill(), application).await;
    }

    /// `GET /` of a service by Host.
    ///
    /// # Errors
    /// When the proxy does not answer.
    pub async fn get(&self, host: &str) -> anyhow::Result<Reply> {
        client::get(self.outbound, host, "/").await
    }

    /// As [`Sidecar::get`]; gives the name of the application that answered with 200.
    ///
    /// # Errors
    /// What came instead.
    pub async fn call(&self, host: &str) -> Result<String, String> {
        match self.get(host).await {
            Ok(reply) if reply.status == 200 => Ok(reply.text()),
            Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Any request over HTTP/1.1, with the whole response.
    ///
    /// # Errors
    /// When the exchange breaks off.
    pub async fn exchange<B>(&self, request: Request<B>) -> anyhow::Result<Reply>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        client::exchange(self.outbound, Version::One, request).await
    }

    /// Waits until a call of `host` is answered by an application whose name fulfils `right`.
    pub async fn reaches(&self, host: &str, what: &str, right: impl Fn(&str) -> bool) {
        eventually(&format!("{} reaches {what} at {host}", self.id), async || {
            match self.call(host).await {
                Ok(name) if right(&name) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Calls `host` `times` times and gives the names that answered; every call must be answered with 200.
    pub async fn names(&self, host: &str, times: usize) -> Vec<String> {
        let mut names = Vec::new();
        for at in 0..times {
            match self.call(host).await {
                Ok(name) => names.push(name),
                Err(error) => panic!("call {at} of {times} from {} to {host}: {error}", self.id),
            }
        }
        names
    }

    /// The view that it routes by.
    ///
    /// # Errors
    /// When the page does not answer.
    pub async fn view(&self) -> anyhow::Result<Value> {
        let (_, body) = client::page(self.pages, "/view").await?;
        Ok(serde_json::from_str(&body)?)
    }

    /// The value of a metric, by its name and labels as they are written.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = client::page(self.pages, "/metrics").await.ok()?;
        let line = body
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }
}
