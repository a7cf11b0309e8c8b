//! The nemesis: one seed, one order of faults. Each is begun, kept for a while and healed; sometimes two at a time. What it
//! does is noted in the history.

use std::{sync::Arc, time::Duration};

use mesh::runtime::clock;
use rustix::process::Signal;

use super::{
    clients::Shared,
    network::Network,
    nodes::{NODES, Node},
};

/// How long the region may take to answer again when nothing is wrong any more.
const RECOVERY_MAX: Duration = Duration::from_secs(45);

/// What goes wrong, with the number of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9`.
    Kill(u64),
    /// SIGTERM, in order.
    Stop(u64),
    /// SIGSTOP.
    Pause(u64),
    /// The cable is pulled: neither peers nor clients.
    Unplug(u64),
    /// From its peers, in one direction or both; clients still come through.
    Cut { node: u64, inward: bool, outward: bool },
    /// The disk has so many MiB left.
    Fill { node: u64, left: u64 },
}

impl Fault {
    fn node(self) -> u64 {
        match self {
            Self::Kill(node) | Self::Stop(node) | Self::Pause(node) | Self::Unplug(node) => node,
            Self::Cut { node, .. } | Self::Fill { node, .. } => node,
        }
    }
}

/// See the module.
pub(super) struct Nemesis {
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) shared: Arc<Shared>,
    pub(super) random: fastrand::Rng,
    pub(super) faults: u64,
}

impl Nemesis {
    /// Goes on until the time is over, then heals everything.
    pub(super) async fn run(&mut self, span: Duration) -> Result<(), String> {
        let begun = clock::now();
        while begun.elapsed() < span {
            self.rest(300..2000).await;
            let faults = self.choose().await;
            for fault in &faults {
                self.shared.history.note(format!("begins: {fault:?}"));
                self.faults += 1;
                self.begin(*fault).await?;
            }
            self.rest(500..4000).await;
            for fault in &faults {
                self.end(*fault).await?;
                self.shared.history.note(format!("healed: {fault:?}"));
            }
            self.raise(&faults).await?;
            self.recover().await?;
        }
        Ok(())
    }

    async fn rest(&mut self, ms: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(ms))).await;
    }

    async fn choose(&mut self) -> Vec<Fault> {
        let leader = self.leader().await;
        let mut faults = Vec::new();
        let all = self.random.u8(..12) == 0;
        let count = if all {
            NODES
        } else {
            1 + u64::from(self.random.u8(..5) == 0)
        };
        while (faults.len() as u64) < count {
            let aimed = leader.filter(|_| self.random.bool());
            let node = aimed.unwrap_or_else(|| self.random.u64(1..=NODES));
            // One fault a node: a paused one cannot be stopped, a stopped one not paused.
            if faults.iter().all(|fault: &Fault| fault.node() != node) {
                faults.push(self.fault(node, all));
            }
        }
        faults
    }

    fn fault(&mut self, node: u64, all: bool) -> Fault {
        if all {
            return Fault::Kill(node);
        }
        match self.random.u8(..10) {
            0 | 1 => Fault::Kill(node),
            2 => Fault::Stop(node),
            3 | 4 => Fault::Pause(node),
            5 => Fault::Unplug(node),
            6..=8 => {
                let (inward, outward) = match self.random.u8(..3) {
                    0 => (true, false),
                    1 => (false, true),
                    _ => (true, true),
                };
                Fault::Cut { node, inward, outward }
            }
            _ => {
                let left = [0, 20, 50][self.random.usize(..3)];
                Fault::Fill { node, left }
            }
        }
    }

    async fn leader(&self) -> Option<u64> {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            let Ok((_, body)) = cli::demo::lab::get(node.http(), "/v1/status?local=true").await else {
                continue;
            };
            let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut nodes = status["nodes"].as_array().into_iter().flatten();
            if let Some(leader) = nodes.find(|row| row["leader"] == true) {
                let id = &leader["id"];
                return id.as_u64().or_else(|| id.as_str()?.parse().ok());
            }
        }
        None
    }

    fn node(&mut self, number: u64) -> &mut Node {
        &mut self.nodes[number as usize - 1]
    }

    async fn begin(&mut self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(node) => self.node(node).end(Signal::KILL).await,
            Fault::Stop(node) => self.node(node).end(Signal::TERM).await,
            Fault::Pause(node) => self.node(node).signal(Signal::STOP),
            Fault::Unplug(node) => self.network.plug(node, false)?,
            Fault::Cut { node, inward, outward } => {
                for peer in (1..=NODES).filter(|peer| *peer != node) {
                    if outward {
                        self.network.cut(node, peer)?;
                    }
                    if inward {
                        self.network.cut(peer, node)?;
                    }
                }
            }
            Fault::Fill { node, left } => self.node(node).disk.fill(left << 20)?,
        }
        Ok(())
    }

    async fn end(&mut self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(node) | Fault::Stop(node) => self.node(node).start(None)?,
            Fault::Pause(node) => self.node(node).signal(Signal::CONT),
            Fault::Unplug(node) => self.network.plug(node, true)?,
            Fault::Cut { node, inward, outward } => {
                for peer in (1..=NODES).filter(|peer| *peer != node) {
                    if outward {
                        self.network.mend(node, peer)?;
                    }
                    if inward {
                        self.network.mend(peer, node)?;
                    }
                }
            }
            Fault::Fill { node, .. } => self.node(node).disk.free()?,
        }
        Ok(())
    }

    /// A node may end by itself when its disk is full to the last byte; otherwise it must not.
    async fn raise(&mut self, faults: &[Fault]) -> Result<(), String> {
        for number in 1..=NODES {
            let Some(how) = self.node(number).crashed() else {
                continue;
            };
            let excused = faults
                .iter()
                .any(|fault| matches!(fault, Fault::Fill { node, .. } if *node == number));
            let text = format!("node {number} ended by itself: {how}");
            if excused {
                self.shared.history.note(text);
            } else {
                self.shared.found(text);
            }
            self.node(number).start(None)?;
        }
        Ok(())
    }

    /// Waits until linearizable reads are answered again, by a quorum of whatever is there.
    async fn recover(&mut self) -> Result<(), String> {
        let begun = clock::now();
        loop {
            for node in &self.nodes {
                if let Ok((http::StatusCode::OK, _)) = cli::demo::lab::get(node.http(), "/v1/tenants").await {
                    return Ok(());
                }
            }
            self.raise(&[]).await?;
            if begun.elapsed() > RECOVERY_MAX {
                let text = format!("the region does not answer {RECOVERY_MAX:?} after everything was healed");
                self.shared.found(text.clone());
                return Err(text);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All nodes back; each must hold the same in the end.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        for number in 1..=NODES {
            if !self.node(number).runs() {
                self.node(number).start(None)?;
            }
            self.node(number).ready().await?;
        }
        let begun = clock::now();
        loop {
            let mut told = Vec::new();
            for node in &self.nodes {
                let page = cli::demo::lab::get(node.http(), "/v1/tenants?local=true").await;
                let value: serde_json::Value = page
                    .ok()
                    .and_then(|(_, body)| serde_json::from_slice(&body).ok())
                    .unwrap_or_default();
                told.push(value["tenants"].clone());
            }
            if told.iter().all(|one| *one == told[0] && one.is_array()) {
                return Ok(());
            }
            if begun.elapsed() > RECOVERY_MAX {
                self.shared
                    .found(format!("the nodes hold different things in the end: {told:?}"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(super) async fn finish(&mut self) {
        for node in &mut self.nodes {
            node.end(Signal::TERM).await;
        }
    }
}
