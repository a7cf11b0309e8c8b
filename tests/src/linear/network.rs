//! Namespaces joined by a bridge: each node has one, the clients are on the host's side. Links are pulled, and routes between
//! two nodes are dropped in one direction. Whatever is made is taken away at the end.

use std::process::Command;

/// The second byte of the addresses: 10.213.x.0/24.
const NET: &str = "10.213";

/// Runs a command to its end; an error is what it said.
pub(super) fn sh(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), said.trim()))
}

fn ip(line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split(' ').collect();
    sh("ip", &words)
}

/// See the module.
pub(super) struct Network {
    tag: String,
    prefix: String,
    nodes: u64,
}

impl Network {
    /// A bridge with this many namespaces, numbered from 1.
    pub(super) fn new(nodes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let tag = format!("isl{}", std::process::id());
        let network = Self {
            prefix: free_prefix()?,
            tag,
            nodes,
        };
        // Dropped half made, it takes away what there is.
        network.make()?;
        Ok(network)
    }

    fn make(&self) -> Result<(), String> {
        let (tag, prefix) = (&self.tag, &self.prefix);
        ip(&format!("link add {tag}b type bridge"))?;
        ip(&format!("addr add {prefix}.254/24 dev {tag}b"))?;
        ip(&format!("link set {tag}b up"))?;
        for node in 1..=self.nodes {
            let (name, address) = (self.namespace(node), self.address(node));
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add {tag}v{node} type veth peer name eth0 netns {name}"))?;
            ip(&format!("link set {tag}v{node} master {tag}b up"))?;
            ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(())
    }

    pub(super) fn namespace(&self, node: u64) -> String {
        format!("{}n{node}", self.tag)
    }

    pub(super) fn address(&self, node: u64) -> String {
        format!("{}.{node}", self.prefix)
    }

    /// Packets from one node to another are dropped, in this direction only.
    pub(super) fn cut(&self, from: u64, to: u64) -> Result<(), String> {
        let (name, address) = (self.namespace(from), self.address(to));
        ip(&format!("-n {name} route replace blackhole {address}/32"))
    }

    pub(super) fn mend(&self, from: u64, to: u64) -> Result<(), String> {
        let (name, address) = (self.namespace(from), self.address(to));
        ip(&format!("-n {name} route flush exact {address}/32"))
    }

    /// Pulls a node's cable, or plugs it in again.
    pub(super) fn plug(&self, node: u64, is_up: bool) -> Result<(), String> {
        let state = if is_up { "up" } else { "down" };
        ip(&format!("link set {}v{node} {state}", self.tag))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was not made cannot be taken away, which is as good.
        for node in 1..=self.nodes {
            let _ = ip(&format!("netns del {}", self.namespace(node)));
            let _ = ip(&format!("link del {}v{node}", self.tag));
        }
        let _ = ip(&format!("link del {}b", self.tag));
    }
}

/// A network that nobody on this machine has.
fn free_prefix() -> Result<String, String> {
    let output = Command::new("ip").args(["-4", "-o", "addr", "show"]).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let taken = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = std::process::id() % 250;
    let mut prefixes = (0..250).map(|step| format!("{NET}.{}", (first + step) % 250 + 1));
    let free = prefixes.find(|prefix| !taken.contains(&format!("{prefix}.")));
    free.ok_or_else(|| format!("all of {NET}.0.0/16 is taken"))
}
