//! Hostile callers: floods, idlers, slow readers and broken protocols on every port, while others go on as if nothing were.
//! The attackers come from an address of their own, and what is measured is everybody else.
#![expect(clippy::cast_possible_truncation, reason = "test bytes")]

use std::{
    cell::Cell,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::{join_all, select_all};
use prost::Message;
use proto::registry::v1 as pb;
use tests::{
    Plan, Sidecar, World, certs,
    line::{Line, PREFACE, frame, headers},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::Instant,
};

/// Where attackers come from; loopback is a whole network.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The name of a registry is not looked at: it is known by its certificate.
const REGISTRY: &str = "registry.test";
/// How long each attack goes on.
const ATTACK: Duration = Duration::from_millis(1_500);
/// No honest call may take longer, whatever happens: far above what a busy test machine needs, far below a timeout.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much slower the slower half of honest calls may get, plus a floor for machines that are busy with other tests.
const SLOWER: (u32, Duration) = (20, Duration::from_millis(250));

/// Honest callers: one of the registry, one of a workload behind it.
struct Honest<'a> {
    world: &'a World,
    web: &'a Sidecar,
}

impl Honest<'_> {
    /// Calls one after the other until `attack` is over; the time that each took, the shortest first.
    async fn during(&self, attack: impl Future<Output = ()>) -> Vec<Duration> {
        let over = Cell::new(false);
        let mut took = Vec::new();
        let admin = self.world.west().admin().await;
        let node = self.world.west().registry();
        let attacking = async {
            attack.await;
            over.set(true);
        };
        let calling = async {
            while !over.get() || took.len() < 9 {
                let calls = async {
                    let began = Instant::now_of_test();
                    admin.status().await.unwrap();
                    let status = began.elapsed();
                    let began = Instant::now_of_test();
                    assert_eq!(self.web.call("pay.shop").await.unwrap(), "west-pay-1");
                    let call = began.elapsed();
                    let began = Instant::now_of_test();
                    let (code, _) = tests::http::page(node.http, "/readyz").await.unwrap();
                    assert_eq!(code, 200);
                    [status, call, began.elapsed()]
                };
                took.extend(
                    tokio::time::timeout(PATIENCE * 3, calls)
                        .await
                        .expect("honest calls go on"),
                );
            }
        };
        tokio::join!(attacking, calling);
        took.sort();
        took
    }
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

async fn each<F: Future<Output = ()>>(many: usize, attacker: impl Fn(usize) -> F) {
    join_all((0..many).map(attacker)).await;
}

/// Does it again and again until the attack's time is over.
async fn again<F: Future<Output = ()>>(act: impl Fn() -> F) {
    let end = Instant::now_of_test() + ATTACK;
    while Instant::now_of_test() < end {
        // A server may well hang up on an attacker, or not answer it.
        let _ = tokio::time::timeout(Duration::from_millis(500), act()).await;
    }
}

type Attack<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

trait NowOfTest {
    fn now_of_test() -> Self;
}

impl NowOfTest for Instant {
    fn now_of_test() -> Self {
        mesh::runtime::clock::now()
    }
}

/// Connections that begin and say nothing, or too little, and are held.
async fn idlers(ports: &[SocketAddr]) {
    let held: Vec<_> = join_all((0..600).map(|at| async move {
        let mut stream = certs::connect(ports[at % ports.len()], ATTACKER).await.ok()?;
        let half = [
            &b""[..],
            &[22, 3, 1, 2, 0, 1],
            b"GET / HTTP/1.1\r\nhost: x\r\nx: ",
            b"PRI * HTTP",
        ][at % 4];
        // It may have lost its place already.
        let _ = stream.write_all(half).await;
        Some(stream)
    }))
    .await;
    tokio::time::sleep(ATTACK).await;
    drop(held);
}

/// TLS handshakes that are never finished by the client, as fast as it can.
async fn handshakes(to: SocketAddr) {
    each(4, |_| {
        again(move || async move {
            let Ok(mut stream) = certs::connect(to, ATTACKER).await else {
                return;
            };
            // The server answers with its keys; nobody wants them.
            let hello = tests::fuzz::seeds("hello").remove(0);
            let _ = stream.write_all(&hello[1..]).await;
            let _ = stream.read(&mut [0; 64]).await;
        })
    })
    .await;
}

/// HTTP/2 as no library speaks it, once past TLS.
async fn frames(to: SocketAddr, name: &str, shown: Option<&certs::Shown>, make: impl Fn(u32) -> Vec<u8>) {
    let make = &make;
    let alpn: &[&[u8]] = if name == REGISTRY {
        &[b"h2"]
    } else {
        &[b"istio-h2", b"istio", b"h2"]
    };
    each(2, |_| {
        again(move || async move {
            let Ok(mut tls) = certs::open(to, ATTACKER, name, shown, alpn).await else {
                return;
            };
            let _ = tls.write_all(PREFACE).await;
            for at in 0..3_000_u32 {
                if tls.write_all(&make(at)).await.is_err() {
                    return;
                }
            }
            let _ = tls.flush().await;
            let _ = tls.read(&mut [0; 1024]).await;
        })
    })
    .await;
}

fn rapid_reset(at: u32) -> Vec<u8> {
    let stream = at * 2 + 1;
    let opened = frame(1, 5, stream, &headers("/isthmus.admin.v1.Admin/GetStatus"));
    [opened, frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
}

fn continuation(at: u32) -> Vec<u8> {
    if at == 0 {
        return frame(1, 1, 1, &headers("/a"));
    }
    frame(9, 0, 1, &[0, 1, b'a', 1, b'b'])
}

fn settings(_: u32) -> Vec<u8> {
    frame(4, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0])
}

fn pings(_: u32) -> Vec<u8> {
    frame(6, 0, 0, &[7; 8])
}

fn empty_data(at: u32) -> Vec<u8> {
    if at == 0 {
        return frame(1, 4, 1, &headers("/isthmus.registry.v1.Certificates/Issue"));
    }
    frame(0, 0, 1, &[])
}

/// Watches that are opened and never read, with a window of nothing.
async fn unread_watches(to: SocketAddr, shown: &certs::Shown) {
    let mut held = Vec::new();
    for _ in 0..20 {
        let Ok(mut tls) = certs::open(to, ATTACKER, REGISTRY, Some(shown), &[b"h2"]).await else {
            continue;
        };
        let start = pb::WatchRequest {
            kind: Some(pb::watch_request::Kind::Start(pb::Start {
                interest: Some(pb::Interest {
                    everything: true,
                    ..pb::Interest::default()
                }),
                held: None,
                subscriber: "x".repeat(5_000),
                version: String::new(),
                shown: None,
            })),
        };
        let message = start.encode_to_vec();
        let body = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        // Settings with a window of 0 for every stream.
        let mut bytes = [&PREFACE[..24], &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
        for stream in 0..10_u32 {
            bytes.extend(frame(
                1,
                4,
                stream * 2 + 1,
                &headers("/isthmus.registry.v1.Watch/Subscribe"),
            ));
            for part in body.chunks(16_000) {
                bytes.extend(frame(0, 0, stream * 2 + 1, part));
            }
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), tls.write_all(&bytes)).await;
        held.push(tls);
    }
    tokio::time::sleep(ATTACK).await;
}

/// Calls of one caller, as many as it can, some of them malformed and some of them huge.
async fn calls(to: SocketAddr, shown: Option<&certs::Shown>) {
    let huge = vec![0x0a; 3 << 20];
    let malformed: Vec<u8> = (0..=255).collect();
    let (huge, malformed) = (&huge, &malformed);
    each(4, |at| async move {
        let Ok(line) = Line::open_from(to, ATTACKER, shown).await else {
            return;
        };
        let line = tokio::sync::Mutex::new(line);
        let line = &line;
        again(move || async move {
            let mut line = line.lock().await;
            let _ = match at {
                0 => line.call("/isthmus.registry.v1.Certificates/Issue", huge).await,
                1 => line.call("/isthmus.registry.v1.Register/Attach", malformed).await,
                2 => {
                    line.send("/isthmus.registry.v1.Watch/Subscribe", vec![0, 255, 255, 255, 255, 1])
                        .await
                }
                _ => line.call("/isthmus.admin.v1.Admin/GetStatus", &[]).await,
            };
        })
        .await;
    })
    .await;
}

/// Good and bad DNS requests, as fast as one sender can.
async fn names(to: SocketAddr) {
    let socket = UdpSocket::bind((ATTACKER, 0)).await.unwrap();
    let good = tests::fuzz::seeds("dns_request");
    let end = Instant::now_of_test() + ATTACK;
    let mut at = 0_usize;
    while Instant::now_of_test() < end {
        for _ in 0..64 {
            let mut request = good[at % good.len()].clone();
            if at.is_multiple_of(3) {
                let spoilt = at % request.len();
                request[spoilt] ^= 0xff;
            }
            at += 1;
            // A full buffer is the flood's own affair.
            let _ = socket.send_to(&request, to).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Slow heads of HTTP/1 and answers that nobody reads.
async fn slow_pages(to: SocketAddr) {
    let held = join_all((0..300).map(|at| async move {
        let mut stream = certs::connect(to, ATTACKER).await.ok()?;
        let text: &[u8] = if at % 2 == 0 {
            b"GET /view HTTP/1.1\r\n"
        } else {
            b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
        };
        // It may have lost its place already.
        let _ = stream.write_all(text).await;
        Some(stream)
    }))
    .await;
    tokio::time::sleep(ATTACK).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attackers_on_every_port_do_not_slow_others_down() {
    let world = World::regions(["west"]).await;
    let pay = world.west().workload(Plan::http("pay-1")).await;
    let web = world.west().caller(Plan::new("web")).await;
    web.reaches("pay.shop", "the workload", |name| name == "west-pay-1")
        .await;
    let honest = Honest {
        world: &world,
        web: &web,
    };
    let (node, gateway) = (world.west().registry(), world.west().gateway());
    let workload = certs::Ca::of(world.west()).workload("spiffe://west/ns/shop/sa/loud");
    let shown = Some(&workload);
    let tcp = [
        node.api,
        node.raft,
        node.http,
        node.federation,
        node.dns,
        gateway.tunnels,
        gateway.pages,
        pay.inbound,
        pay.pages,
        web.dns,
    ];
    let before = honest.during(tokio::time::sleep(ATTACK)).await;
    let pay_name = certs::server_name("pay.shop", 80);
    let attacks: Vec<(&str, Attack<'_>)> = vec![
        ("idlers on every port", Box::pin(idlers(&tcp))),
        ("handshakes", Box::pin(handshakes(node.api))),
        ("handshakes at a workload", Box::pin(handshakes(pay.inbound))),
        ("rapid reset", Box::pin(frames(node.api, REGISTRY, shown, rapid_reset))),
        (
            "rapid reset at a workload",
            Box::pin(frames(pay.inbound, &pay_name, shown, rapid_reset)),
        ),
        ("continuation", Box::pin(frames(node.api, REGISTRY, None, continuation))),
        ("settings", Box::pin(frames(node.federation, REGISTRY, None, settings))),
        ("pings", Box::pin(frames(node.raft, REGISTRY, None, pings))),
        ("empty data", Box::pin(frames(node.api, REGISTRY, None, empty_data))),
        ("unread watches", Box::pin(unread_watches(node.api, &workload))),
        ("calls", Box::pin(calls(node.api, shown))),
        ("calls without certificate", Box::pin(calls(node.api, None))),
        ("names", Box::pin(names(node.dns))),
        ("names at a workload", Box::pin(names(web.dns))),
        ("slow pages", Box::pin(slow_pages(node.http))),
    ];
    for (what, attack) in attacks {
        let during = honest.during(attack).await;
        let bound = at(&before, 50) * SLOWER.0 + SLOWER.1;
        assert!(
            at(&during, 50) < bound,
            "{what}: {:?} instead of {:?}",
            at(&during, 50),
            at(&before, 50)
        );
        assert!(
            at(&during, 99) < PATIENCE,
            "{what}: {:?} instead of {:?}",
            at(&during, 99),
            at(&before, 99)
        );
    }
    for part in [&node.part, &gateway.part, &pay.proxy, &web.proxy] {
        part.ready().await;
    }
    web.reaches("pay.shop", "the workload after all that", |name| name == "west-pay-1")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_ports_speak_no_old_tls_and_hang_up_on_floods() {
    let world = World::regions(["west"]).await;
    let node = world.west().registry();
    let workload = certs::Ca::of(world.west()).workload("spiffe://west/ns/shop/sa/loud");
    for port in [node.api, node.raft, node.federation] {
        assert!(
            certs::open_tls12(port, Some(&workload), &[b"h2"]).await.is_err(),
            "TLS 1.2, which could be renegotiated"
        );
    }
    // Who resets calls faster than they can be looked at, or sends headers without end, is hung up on.
    for make in [rapid_reset as fn(u32) -> Vec<u8>, continuation] {
        let mut tls: tokio_rustls::client::TlsStream<TcpStream> =
            certs::open(node.api, ATTACKER, REGISTRY, Some(&workload), &[b"h2"])
                .await
                .unwrap();
        tls.write_all(PREFACE).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(tls);
        let write = async {
            for at in 0..100_000 {
                if writing.write_all(&make(at)).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let read = async {
            let mut bytes = [0; 4096];
            while reading.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
        };
        let either: [std::pin::Pin<Box<dyn Future<Output = ()> + Send>>; 2] = [Box::pin(write), Box::pin(read)];
        tokio::time::timeout(PATIENCE, select_all(either))
            .await
            .expect("it hangs up");
    }
    world.west().registry_answers().await.unwrap();
}
