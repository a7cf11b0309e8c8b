//! The lab's configurations: the same files that an operator writes, with ports on loopback and short times.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::Ports;
use crate::failure::Outcome;

/// Ports of a registry node.
pub(super) const REGISTRY_PORTS: usize = 5;
/// Ports of a gateway.
pub(super) const GATEWAY_PORTS: usize = 4;
/// Ports of a proxy, with its application's.
pub(super) const PROXY_PORTS: usize = 7;

/// A registry node.
pub(super) struct Node<'a> {
    pub(super) region: &'a str,
    pub(super) name: &'a str,
    pub(super) zone: &'a str,
    pub(super) data_dir: PathBuf,
    pub(super) api: SocketAddr,
    pub(super) raft: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) federation: SocketAddr,
    pub(super) dns: SocketAddr,
}

impl Node<'_> {
    pub(super) fn text(&self) -> String {
        format!(
            "region = {:?}\ndata_dir = {:?}\n\n\
             [node]\nname = {:?}\nzone = {:?}\n\n\
             [listen]\napi = \"{}\"\nraft = \"{}\"\nhttp = \"{}\"\nfederation = \"{}\"\ndns = \"{}\"\n",
            self.region, self.data_dir, self.name, self.zone, self.api, self.raft, self.http, self.federation, self.dns
        )
    }
}

/// Where a gateway or proxy answers about itself.
#[derive(Clone, Copy)]
pub(super) struct Admin {
    pub(super) ready: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) pages: SocketAddr,
}

impl Admin {
    pub(super) fn plan(ports: &mut Ports) -> Outcome<Self> {
        Ok(Self {
            ready: ports.take()?,
            metrics: ports.take()?,
            pages: ports.take()?,
        })
    }

    fn text(self) -> String {
        format!(
            "\n[admin]\nready = \"{}\"\nmetrics = \"{}\"\npages = \"{}\"\n",
            self.ready, self.metrics, self.pages
        )
    }
}

/// A gateway. A region of the lab is one cluster of the same name.
pub(super) struct Gateway<'a> {
    pub(super) region: &'a str,
    pub(super) name: &'a str,
    pub(super) data_dir: PathBuf,
    pub(super) token: PathBuf,
    pub(super) registry: &'a [SocketAddr],
    pub(super) listen: SocketAddr,
    pub(super) admin: Admin,
}

impl Gateway<'_> {
    pub(super) fn text(&self) -> String {
        let head = format!(
            "region = {0:?}\ncluster = {0:?}\nid = {1:?}\nlisten = \"{2}\"\nregistry = {3}\ndata_dir = {4:?}\n\n\
             [identity]\ntoken_file = {5:?}\n",
            self.region,
            self.name,
            self.listen,
            list(self.registry),
            self.data_dir,
            self.token
        );
        head + &self.admin.text()
    }
}

/// Whom a proxy stands beside.
pub(super) struct Workload<'a> {
    pub(super) region: &'a str,
    pub(super) name: String,
    pub(super) zone: &'a str,
    pub(super) namespace: &'a str,
    pub(super) service_account: &'a str,
    /// What it serves on port 80; a caller serves nothing.
    pub(super) service: Option<&'a str>,
}

/// A proxy.
pub(super) struct Proxy<'a> {
    pub(super) workload: &'a Workload<'a>,
    pub(super) data_dir: PathBuf,
    pub(super) token: PathBuf,
    pub(super) registry: &'a [SocketAddr],
    pub(super) outbound: SocketAddr,
    pub(super) inbound: SocketAddr,
    pub(super) dns: SocketAddr,
    pub(super) admin: Admin,
    pub(super) application: SocketAddr,
}

impl Proxy<'_> {
    pub(super) fn text(&self) -> String {
        let workload = self.workload;
        let mut text = format!(
            "region = {0:?}\ncluster = {0:?}\nzone = {1:?}\nregistry = {2}\ndata_dir = {3:?}\n\n\
             [workload]\nid = {4:?}\nnamespace = {5:?}\nservice_account = {6:?}\naddress = \"{7}\"\n\n\
             [identity]\ntoken_file = {8:?}\n\n\
             [outbound]\nlisten = \"{9}\"\n\n[inbound]\nlisten = \"{10}\"\n\n[dns]\nlisten = \"{11}\"\n",
            workload.region,
            workload.zone,
            list(self.registry),
            self.data_dir,
            workload.name,
            workload.namespace,
            workload.service_account,
            self.inbound.ip(),
            self.token,
            self.outbound,
            self.inbound,
            self.dns
        );
        // So that the first act begins with everything known, and each proxy sees the endpoints whose way is measured.
        text = text.replacen(
            "[outbound]\n",
            "[outbound]\nservices = [\"pay.shop\", \"probe.shop\"]\n",
            1,
        );
        text += &self.admin.text();
        if let Some(service) = workload.service {
            text += &format!(
                "\n[[service]]\nname = {service:?}\nport = 80\nprotocol = \"http\"\napp = \"{}\"\n\n\
                 [service.health]\nkind = \"http\"\npath = \"/\"\ninterval = \"500ms\"\n",
                self.application
            );
        }
        text
    }
}

/// The command of a workload's application.
pub(super) fn application(executable: &Path, listen: SocketAddr, workload: &Workload<'_>) -> Vec<String> {
    let command = [
        "--",
        &executable.display().to_string(),
        "--die-with-parent",
        "demo-app",
        "--listen",
        &listen.to_string(),
        "--region",
        workload.region,
        "--name",
        &workload.name,
    ];
    command.map(str::to_owned).into()
}

/// Writes a configuration and says where.
pub(super) fn write(dir: &Path, name: &str, text: &str) -> Outcome<PathBuf> {
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text)?;
    Ok(path)
}

fn list(addresses: &[SocketAddr]) -> String {
    let quoted: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        Ports::reserve(20).unwrap()
    }

    #[test]
    fn node_text_is_a_good_configuration() {
        let mut ports = ports();
        let node = Node {
            region: "eu",
            name: "eu-registry-1",
            zone: "a",
            data_dir: "/tmp/it's \"odd\"".into(),
            api: ports.take().unwrap(),
            raft: ports.take().unwrap(),
            http: ports.take().unwrap(),
            federation: ports.take().unwrap(),
            dns: ports.take().unwrap(),
        };
        let config = registry::Config::parse(&node.text()).unwrap();
        assert_eq!(config.listen.api, node.api);
        assert_eq!(config.data_dir, node.data_dir);
    }

    #[test]
    fn gateway_text_is_a_good_configuration() {
        let mut ports = ports();
        let registry = [ports.take().unwrap(), ports.take().unwrap()];
        let gateway = Gateway {
            region: "eu",
            name: "eu-gateway",
            data_dir: "/tmp/gateway".into(),
            token: "/tmp/token".into(),
            registry: &registry,
            listen: ports.take().unwrap(),
            admin: Admin::plan(&mut ports).unwrap(),
        };
        let config = eastwest_gateway::Config::parse(&gateway.text()).unwrap();
        assert_eq!((config.listen, config.registry.len()), (gateway.listen, 2));
    }

    #[test]
    fn proxy_text_is_a_good_configuration_with_and_without_a_service() {
        for service in [Some("pay"), None] {
            let mut ports = ports();
            let workload = Workload {
                region: "eu",
                name: "eu-pay-1".into(),
                zone: "a",
                namespace: "shop",
                service_account: "pay",
                service,
            };
            let registry = [ports.take().unwrap()];
            let proxy = Proxy {
                workload: &workload,
                data_dir: "/tmp/proxy".into(),
                token: "/tmp/token".into(),
                registry: &registry,
                outbound: ports.take().unwrap(),
                inbound: ports.take().unwrap(),
                dns: ports.take().unwrap(),
                admin: Admin::plan(&mut ports).unwrap(),
                application: ports.take().unwrap(),
            };
            let config = proxy::Config::parse(&proxy.text()).unwrap();
            assert_eq!(config.services.len(), usize::from(service.is_some()));
        }
    }
}
