//! A TCP relay between two parts, which breaks the path as networks do: refused, or swallowed in one direction or in both.
//! Only that a connection is accepted while the path swallows everything is not as a network does it: there it would hang.

use std::{net::SocketAddr, sync::Arc};

use mesh::runtime::{OnExit, Stop, Tasks};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// They arrive.
    Open,
    /// Connections are reset, and new ones refused.
    Refused,
    /// Nothing arrives in either direction, without a word.
    Swallowed,
    /// What is sent to the target does not arrive; its own bytes do.
    LostThere,
    /// What the target sends does not arrive; what is sent to it does.
    LostBack,
}

impl Path {
    fn carries(self, there: bool) -> bool {
        match self {
            Self::Open => true,
            Self::Refused | Self::Swallowed => false,
            Self::LostThere => !there,
            Self::LostBack => there,
        }
    }
}

/// See the module. It ends with its drop.
pub struct Relay {
    address: SocketAddr,
    path: Arc<watch::Sender<Path>>,
    target: Arc<watch::Sender<Option<SocketAddr>>>,
    stop: Stop,
}

impl Relay {
    /// One that knows no target yet: it takes connections and waits.
    #[must_use]
    pub fn open() -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap());
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        let (path, target) = (watch::Sender::new(Path::Open), watch::Sender::new(None));
        let relay = Self {
            address,
            path: Arc::new(path),
            target: Arc::new(target),
            stop: tasks.stop().clone(),
        };
        let (path, target) = (relay.path.subscribe(), relay.target.subscribe());
        let (spawner, stop) = (tasks.clone(), tasks.stop().clone());
        tasks.spawn("relay", OnExit::Ignore, async move {
            tokio::select! {
                () = stop.ordered() => {}
                () = accept(listener, address, path, target, spawner) => {}
            }
        });
        relay
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections lead.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    /// Breaks the path or mends it, also for connections that stand.
    pub fn set(&self, path: Path) {
        self.path.send_replace(path);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.order();
    }
}

fn bind(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    // The same port again, after it was closed for a while.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(128).unwrap()
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    mut path: watch::Receiver<Path>,
    target: watch::Receiver<Option<SocketAddr>>,
    tasks: Tasks,
) {
    let mut listener = Some(listener);
    loop {
        if *path.borrow_and_update() == Path::Refused {
            listener = None;
            if path.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open = listener.get_or_insert_with(|| bind(address));
        tokio::select! {
            changed = path.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((near, _)) = accepted {
                let (path, target, stop) = (path.clone(), target.clone(), tasks.stop().clone());
                tasks.spawn("relay-connection", OnExit::Ignore, async move {
                    tokio::select! {
                        () = stop.ordered() => {}
                        () = join(near, path, target) => {}
                    }
                });
            },
        }
    }
}

async fn join(near: TcpStream, path: watch::Receiver<Path>, mut target: watch::Receiver<Option<SocketAddr>>) {
    let Ok(target) = target.wait_for(Option::is_some).await.map(|target| *target) else {
        return;
    };
    let Some(target) = target else { return };
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    let mut reset = path.clone();
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = reset.wait_for(|path| *path == Path::Refused) => {}
        () = carry(near_in, far_out, path.clone(), true) => {}
        () = carry(far_in, near_out, path, false) => {}
    }
}

/// Until one side ends, which ends the other as well: nobody who uses this closes only one half. What does not arrive waits,
/// as with TCP, which sends it again.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut path: watch::Receiver<Path>, there: bool) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let is_open = path.wait_for(|path| path.carries(there)).await.is_ok();
        if !is_open || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
