//! Relays over real sockets.

use std::pin::pin;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::net::{dial::dial_address, listen::listen};

const PATIENT: Patience = Patience {
    idle: Duration::from_secs(60),
    stall: Duration::from_secs(60),
};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let dialled = dial_address(address, Duration::from_secs(10));
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// A client and a server with a relay's two streams between them.
async fn world() -> (TcpStream, (TcpStream, TcpStream), TcpStream) {
    let (client, first) = pair().await;
    let (second, server) = pair().await;
    (client, (first, second), server)
}

/// Bytes that differ at each place.
fn pattern(length: usize, salt: u32) -> Vec<u8> {
    (0..length as u32)
        .map(|at| (at.wrapping_add(salt).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// Sends and receives at the same time, closing its direction when all is sent.
async fn exchange(stream: TcpStream, send: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let mut received = Vec::new();
    let sending = async {
        write.write_all(&send).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(sending, read.read_to_end(&mut received));
    read.unwrap();
    received
}

async fn large_transfer_with(pool: Pool) {
    const BYTES: usize = 16 * 1024 * 1024;
    let (client, (first, second), server) = world().await;
    let meters = Meters::none();
    let (outcome, at_client, at_server) = tokio::join!(
        relay(first, second, PATIENT, &pool, &meters),
        exchange(client, pattern(BYTES, 1)),
        exchange(server, pattern(BYTES + 77, 2)),
    );
    assert!(matches!(outcome.end, End::Finished), "{outcome:?}");
    assert_eq!(
        (outcome.forth_bytes, outcome.back_bytes),
        (BYTES as u64, BYTES as u64 + 77)
    );
    assert!(at_server == pattern(BYTES, 1), "bytes to the server differ");
    assert!(at_client == pattern(BYTES + 77, 2), "bytes to the client differ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_arrive_whole_both_ways_by_splice() {
    let pool = Pool::new(4, 4);
    large_transfer_with(pool.clone()).await;
    #[cfg(target_os = "linux")]
    assert!(
        (1..=4).contains(&pool.spare_pipes()),
        "no pipe came back: nothing was spliced"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_arrive_whole_both_ways_by_copy() {
    large_transfer_with(Pool::new(4, 0)).await;
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction_open() {
    for client_first in [true, false] {
        let (client, (first, second), server) = world().await;
        let (mut early, mut late) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        let (pool, meters) = (Pool::new(1, 1), Meters::none());
        let talk = async {
            early.write_all(b"question").await.unwrap();
            early.shutdown().await.unwrap();
            let mut heard = String::new();
            late.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "question");
            late.write_all(b"answer").await.unwrap();
            late.shutdown().await.unwrap();
            heard.clear();
            early.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "answer");
        };
        let (outcome, ()) = tokio::join!(relay(first, second, PATIENT, &pool, &meters), talk);
        assert!(matches!(outcome.end, End::Finished), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_reset_is_passed_on() {
    let (client, (first, second), mut server) = world().await;
    let (pool, meters) = (Pool::new(1, 1), Meters::none());
    let talk = async {
        reset_on_close(&client);
        drop(client);
        server.read(&mut [0; 1]).await
    };
    let (outcome, heard) = tokio::join!(relay(first, second, PATIENT, &pool, &meters), talk);
    assert!(matches!(outcome.end, End::Broken(_)), "{outcome:?}");
    assert_eq!(heard.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn silence_ends_a_relay_and_talk_keeps_it() {
    let idle = Duration::from_millis(200);
    let (mut client, (first, second), mut server) = world().await;
    let (pool, meters) = (Pool::new(1, 1), Meters::none());
    let patience = Patience { idle, ..PATIENT };
    let mut relaying = pin!(relay(first, second, patience, &pool, &meters));
    let talk = async {
        // Longer than the idle time in all.
        for _ in 0..8 {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0; 1]).await.unwrap();
            tokio::time::sleep(idle / 4).await;
        }
    };
    tokio::select! {
        outcome = &mut relaying => panic!("cut while talking: {outcome:?}"),
        () = talk => {}
    }
    let outcome = relaying.await;
    assert!(matches!(outcome.end, End::Idle), "{outcome:?}");
    assert_eq!(outcome.forth_bytes, 8);
}

#[tokio::test]
async fn a_side_that_takes_nothing_times_out_although_the_other_direction_talks() {
    let (mut client, (first, second), mut server) = world().await;
    let (pool, meters) = (Pool::new(1, 1), Meters::none());
    let patience = Patience {
        stall: Duration::from_millis(300),
        ..PATIENT
    };
    let (mut client_read, mut client_write) = client.split();
    let flood = async {
        let block = vec![0; 1 << 20];
        while client_write.write_all(&block).await.is_ok() {}
    };
    let chat = async {
        // The server talks and reads nothing.
        while server.write_all(b"x").await.is_ok() && client_read.read_exact(&mut [0; 1]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (outcome, (), ()) = tokio::join!(relay(first, second, patience, &pool, &meters), flood, chat);
    assert!(matches!(outcome.end, End::Stalled), "{outcome:?}");
}
