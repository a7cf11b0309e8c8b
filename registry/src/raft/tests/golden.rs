//! Samples of everything that Raft keeps and that nodes say to each other, for golden bytes.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use mesh::model::{Incarnation, Revision, Timestamp};
use openraft::{
    CommittedLeaderId, EntryPayload, SnapshotMeta, StoredMembership,
    error::{Infallible, InstallSnapshotError, RaftError},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catalog::{
        Batch,
        tests::golden::{commands, grants, refusals, replies, rotations},
    },
    golden::{Book, samples},
    raft::{
        Node,
        log::frame,
        membership, propose,
        snapshot::{self, Header},
        type_config::{Entry, LogId, TypeConfig, Vote, decode, encode},
        wire::{Answer, Ask, Envelope, Failure, Index, Told},
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, 2), index)
}

fn vote() -> Vote {
    Vote::new_committed(3, 2)
}

fn node() -> Node {
    Node {
        raft_address: "r2:15013".into(),
        api_address: "r2:15012".into(),
        federation_address: "r2:15016".into(),
        zone: "b".into(),
    }
}

fn members() -> openraft::Membership<u64, Node> {
    let nodes = BTreeMap::from([(1, node()), (2, node()), (3, node())]);
    openraft::Membership::new(vec![[1, 2].into()], nodes)
}

fn entry(index: u64, payload: EntryPayload<TypeConfig>) -> Entry {
    Entry {
        log_id: log_id(index),
        payload,
    }
}

fn put<T: Serialize + DeserializeOwned>(book: &mut Book, name: &str, value: &T) {
    let today = encode("sample", value).unwrap();
    book.sample(name, today, |bytes| {
        let read: T = decode("sample", bytes).map_err(|error| format!("{error}: {error:?}"))?;
        encode("sample", &read).map_err(|error| error.to_string())
    });
}

fn ask<T: Serialize + DeserializeOwned>(book: &mut Book, name: &str, body: T) {
    let envelope = Envelope {
        group: Incarnation(7),
        from: 1,
        to: 2,
        members_at: Some(5),
        body,
    };
    put(book, &format!("ask.{name}"), &envelope);
}

fn answer<T: Serialize + DeserializeOwned>(book: &mut Book, name: &str, body: T) {
    put(book, &format!("answer.{name}"), &Answer::Body(body));
}

fn proposals() -> Vec<(&'static str, propose::Error)> {
    samples!(crate::raft::propose::Error, {
        NoLeader => propose::Error::NoLeader { waited: SECOND, majority: 2 },
        Full => propose::Error::Full { bound: 1024 },
        TooLarge => propose::Error::TooLarge { bytes: 200_000, max: 131_072 },
        DiskFull => propose::Error::DiskFull { node: 2, free_mib: 3, reserve_mib: 64 },
        Unknown => propose::Error::Unknown { waited: SECOND },
        Removed => propose::Error::Removed,
        Stopped => propose::Error::Stopped,
        Level => propose::Error::Level { needs: 2, level: 1 },
    })
}

fn changes() -> Vec<(&'static str, membership::Error)> {
    samples!(crate::raft::membership::Error, {
        Initialised => membership::Error::Initialised { node: 1 },
        NotFound => membership::Error::NotFound { node: 4 },
        InUse => membership::Error::InUse { what: "id 3".into(), node: 3 },
        LastVoter => membership::Error::LastVoter { node: 1 },
        QuorumLost => membership::Error::QuorumLost { node: 2, live: 1, voters: 2, majority: 2, silent: vec![3] },
        NotCaughtUp => membership::Error::NotCaughtUp { node: 4, lag: 99, waited: SECOND },
        Busy => membership::Error::Busy,
        Unknown => membership::Error::Unknown { waited: SECOND },
        Unavailable => membership::Error::Unavailable(propose::Error::Removed),
    })
}

fn log(book: &mut Book) {
    for (name, command) in commands() {
        let batch = Batch {
            at: Timestamp(1_700_000_000_000),
            commands: vec![command],
        };
        put(
            book,
            &format!("entry.{name}"),
            &entry(9, EntryPayload::Normal(Arc::new(batch))),
        );
    }
    put(book, "entry.blank", &entry(9, EntryPayload::Blank));
    put(book, "entry.membership", &entry(9, EntryPayload::Membership(members())));
    put(book, "vote", &vote());
    put(book, "purged", &log_id(8));
    put(book, "membership", &StoredMembership::new(Some(log_id(4)), members()));
}

fn append() -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: Some(log_id(8)),
        entries: vec![entry(9, EntryPayload::Blank)],
        leader_commit: Some(log_id(7)),
    }
}

fn requests(book: &mut Book) {
    ask(book, "append", append());
    ask(book, "vote", VoteRequest::new(vote(), Some(log_id(8))));
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(8)),
        last_membership: StoredMembership::new(Some(log_id(4)), members()),
        snapshot_id: "3-8-0000002a".to_owned(),
    };
    let part = InstallSnapshotRequest::<TypeConfig> {
        vote: vote(),
        meta,
        offset: 1 << 20,
        data: vec![1, 2, 3],
        done: true,
    };
    ask(book, "install", part);
    ask(book, "read-index", ());
    let asks = samples!(crate::raft::wire::Ask, {
        Propose => Ask::Propose { commands: commands().into_iter().map(|(_, command)| command).take(1).collect(), patience_ms: 5000 },
        Change => Ask::Change(membership::Change::Add { id: 4, node: node() }),
        Elect => Ask::Elect,
        Level => Ask::Level,
    });
    for (name, one) in asks {
        ask(book, name, one);
    }
    let changes = samples!(crate::raft::membership::Change, {
        Add => membership::Change::Add { id: 4, node: node() },
        Remove => membership::Change::Remove { id: 3 },
    });
    for (name, one) in changes {
        put(book, &format!("change.{name}"), &one);
    }
}

fn told_by_raft(book: &mut Book) {
    type Raft<T, E = Infallible> = Result<T, RaftError<u64, E>>;
    let appended: [(_, AppendEntriesResponse<u64>); 4] = [
        ("Success", AppendEntriesResponse::Success),
        ("PartialSuccess", AppendEntriesResponse::PartialSuccess(Some(log_id(8)))),
        ("Conflict", AppendEntriesResponse::Conflict),
        ("HigherVote", AppendEntriesResponse::HigherVote(vote())),
    ];
    for (name, one) in appended {
        answer::<Raft<_>>(book, &format!("append.{name}"), Ok(one));
    }
    let voted = VoteResponse::new(vote(), Some(log_id(8)), true);
    answer::<Raft<VoteResponse<u64>>>(book, "vote", Ok(voted));
    let installed = InstallSnapshotResponse { vote: vote() };
    answer::<Raft<_, InstallSnapshotError>>(book, "install", Ok(installed));
    put::<Answer<()>>(book, "answer.removed", &Answer::Removed);
}

fn answers(book: &mut Book) {
    told_by_raft(book);
    let tolds = samples!(crate::raft::wire::Told, {
        Proposed => Told::Proposed(Vec::new()),
        Changed => Told::Changed(Ok(())),
        NotLeader => Told::NotLeader,
        Standing => Told::Standing,
        Level => Told::Level(2),
    });
    for (name, one) in tolds {
        answer(book, name, one);
    }
    for (name, reply) in replies() {
        let committed = propose::Committed {
            revision: Revision(9),
            reply,
        };
        answer(book, &format!("reply.{name}"), Told::Proposed(vec![Ok(committed)]));
    }
    for (name, refusal) in refusals() {
        put(book, &format!("refusal.{name}"), &refusal);
    }
    for (name, step) in rotations() {
        put(book, &format!("rotation.{name}"), &step);
    }
    for (name, grant) in grants() {
        put(book, &format!("grant.{name}"), &grant);
    }
    for (name, error) in proposals() {
        put(book, &format!("propose-error.{name}"), &error);
    }
    for (name, error) in changes() {
        answer(book, &format!("change-error.{name}"), Told::Changed(Err(error)));
    }
    let failures = samples!(crate::raft::wire::Failure, {
        NotLeader => Failure::NotLeader,
        Error => Failure::Error(propose::Error::Removed),
    });
    for (name, one) in failures {
        put(book, &format!("failure.{name}"), &one);
    }
    let indexes = samples!(crate::raft::wire::Index, {
        At => Index::At(Revision(9)),
        NotLeader => Index::NotLeader,
        Failed => Index::Failed(propose::Error::Removed),
    });
    for (name, one) in indexes {
        answer(book, &format!("index.{name}"), one);
    }
}

fn text(error: impl Debug) -> String {
    format!("{error:?}")
}

/// A whole file: magic, version, frames.
fn snapshots(book: &mut Book) {
    let header = Header {
        last: Some(log_id(8)),
        membership: StoredMembership::new(Some(log_id(4)), members()),
        id: "3-8-0000002a".into(),
        at: Timestamp(1_700_000_000_000),
        region: Some(mesh::model::RegionId::parse("eu").unwrap()),
        incarnation: Incarnation(7),
    };
    let state = crate::catalog::testing::World::new("eu").state;
    let mut bytes = Vec::new();
    snapshot::write(&mut bytes, &header, &state).unwrap();
    book.sample("snapshot", bytes, |mut bytes| {
        let (header, state) = snapshot::read(&mut bytes).map_err(text)?;
        let mut again = Vec::new();
        snapshot::write(&mut again, &header, &state).map_err(text)?;
        Ok(again)
    });
}

/// A segment of the log with one frame.
fn segments(book: &mut Book) {
    let head = frame::Head {
        log_id: log_id(9),
        durable: frame::HEADER_BYTES as u64,
        committed: 8,
    };
    let whole = |first: u64, head: &frame::Head, payload: &[u8]| {
        let mut bytes = frame::header(first);
        frame::encode(&mut bytes, head, payload);
        bytes
    };
    book.sample("segment", whole(9, &head, b"payload"), |bytes| {
        let first = frame::read_header(bytes).map_err(text)?;
        let (head, payload) = frame::decode(&bytes[frame::HEADER_BYTES..]).ok_or("no frame")?;
        Ok(whole(first, &head, payload))
    });
}

fn book() -> Book {
    let mut book = Book::open("raft");
    segments(&mut book);
    log(&mut book);
    requests(&mut book);
    answers(&mut book);
    snapshots(&mut book);
    book
}

#[test]
fn logs_snapshots_and_the_wire_of_every_version_are_read() {
    book().check();
}

#[test]
#[ignore = "writes the files"]
fn bless_golden_bytes() {
    book().bless();
}
