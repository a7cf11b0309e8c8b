//! Connections that have not shown yet who they are. There is room for so many of one source and for so many in all; who
//! comes when it is full takes the place of the oldest one of the largest source. An honest client is known within
//! milliseconds, so that the oldest is one that only holds its place; nobody is ever kept out by idlers.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The address that counts as one source: a network of /64 is one host's in IPv6.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        },
    }
}

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// In all.
    pub total_max: usize,
    /// Of one source.
    pub source_max: usize,
}

/// The table. Clones are the same.
#[derive(Clone, Debug)]
pub struct Newcomers {
    bounds: Bounds,
    /// Guards the table only; held for one entry.
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    total: usize,
    /// By source, the oldest first; each with the way to tell it that its place is gone.
    sources: HashMap<IpAddr, BTreeMap<u64, oneshot::Sender<()>>>,
}

impl Newcomers {
    /// Nobody yet. A bound of 0 is 1.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds: Bounds {
                total_max: bounds.total_max.max(1),
                source_max: bounds.source_max.max(1),
            },
            table: Arc::default(),
        }
    }

    /// Enters a connection; returns whether another one had to go.
    #[must_use]
    pub fn enter(&self, address: IpAddr) -> (Newcomer, bool) {
        let source = source(address);
        let (tell, evicted) = oneshot::channel();
        let mut table = self.lock();
        let own = table.sources.get(&source).map_or(0, BTreeMap::len);
        let full = if own >= self.bounds.source_max {
            table.evict(source);
            true
        } else if table.total >= self.bounds.total_max {
            let largest = table.sources.iter().max_by_key(|(_, of)| of.len());
            let largest = largest.map(|(source, _)| *source);
            if let Some(largest) = largest {
                table.evict(largest);
            }
            true
        } else {
            false
        };
        let id = table.next;
        table.next += 1;
        table.total += 1;
        table.sources.entry(source).or_default().insert(id, tell);
        drop(table);
        let newcomer = Newcomer {
            table: Arc::clone(&self.table),
            source,
            id,
            evicted,
        };
        (newcomer, full)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// Nothing in the table is left half done by a panic.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    fn evict(&mut self, source: IpAddr) {
        let oldest = self.sources.get_mut(&source).and_then(BTreeMap::pop_first);
        if let Some((_, tell)) = oldest {
            // It may have become known at this moment; then it has left the table by itself.
            let _ = tell.send(());
            self.left(source);
        }
    }

    fn left(&mut self, source: IpAddr) {
        self.total -= 1;
        if self.sources.get(&source).is_some_and(BTreeMap::is_empty) {
            self.sources.remove(&source);
        }
    }
}

/// A place in the table; drop it when it is known who came, or when the connection ends.
#[derive(Debug)]
pub struct Newcomer {
    table: Arc<Mutex<Table>>,
    source: IpAddr,
    id: u64,
    evicted: oneshot::Receiver<()>,
}

impl Newcomer {
    /// Returns when the place is gone to somebody else. Safe to cancel; does not return a second time.
    pub async fn evicted(&mut self) {
        if (&mut self.evicted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        let own = table.sources.get_mut(&self.source);
        if own.is_some_and(|own| own.remove(&self.id).is_some()) {
            table.left(self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        total_max: 4,
        source_max: 3,
    };

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn who_only_holds_its_place_loses_it_to_who_comes() {
        let newcomers = Newcomers::new(BOUNDS);
        let mut idlers: Vec<_> = (0..3).map(|_| newcomers.enter(ip(1)).0).collect();
        let (known, full) = newcomers.enter(ip(2));
        assert!(!full);
        let (_third, full) = newcomers.enter(ip(3));
        assert!(full, "four in all");
        assert!(
            idlers[0].evicted().now_or_never().is_some(),
            "the oldest of the largest source"
        );
        assert!(idlers[1].evicted().now_or_never().is_none());
        drop(known);
        let (_fourth, full) = newcomers.enter(ip(1));
        assert!(!full, "a place was given back");
        let (_fifth, full) = newcomers.enter(ip(1));
        assert!(full, "three of one source");
        assert!(idlers[1].evicted().now_or_never().is_some());
        assert_eq!(newcomers.count(), 4);
    }

    #[test]
    fn everybody_who_leaves_gives_the_place_back_once() {
        let newcomers = Newcomers::new(BOUNDS);
        let all: Vec<_> = (0..50).map(|at| newcomers.enter(ip(at % 7)).0).collect();
        assert_eq!(newcomers.count(), 4);
        drop(all);
        assert_eq!(newcomers.count(), 0);
        assert!(newcomers.lock().sources.is_empty());
    }

    #[test]
    fn a_network_is_one_source() {
        let address = |text: &str| source(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), ip(1));
    }
}
