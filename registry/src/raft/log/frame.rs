//! How entries lie in a segment of the log, and what the bytes of a segment tell after a crash.
//!
//! A segment begins with `magic, version, index of its first entry, crc32`. Frames follow without gaps:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the payload |
//! | 4 | crc32 over everything else of the frame |
//! | 8 | length of this segment when the frame was written: all before it was durable |
//! | 8 | newest index known to be committed |
//! | 8, 8, 8 | index, term, leader of the term |
//! | … | payload: the encoded entry |
//!
//! The mark of what was durable tells a torn end from damage. Frames that are written together carry the same mark, and
//! nothing of them was acknowledged before all of them were durable. So a bad frame is a torn write unless a good frame
//! behind it says that the place was durable before. Pure.

use openraft::CommittedLeaderId;

use crate::raft::type_config::LogId;

const MAGIC: &[u8; 8] = b"ISTHLOG\0";
/// Of segments; appended to, never changed in place.
pub(crate) const VERSION: u32 = 1;
/// Before the first frame.
pub(crate) const HEADER_BYTES: usize = 24;
/// Before the payload.
pub(crate) const HEAD_BYTES: usize = 48;
/// More than any entry: a length beyond it is no length.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) log_id: LogId,
    /// All before this offset was durable when the frame was written.
    pub(crate) durable: u64,
    /// The newest index known to be committed at that time.
    pub(crate) committed: u64,
}

/// Why a segment's header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Made by a newer program.
    Newer(u32),
    /// Damaged, or no segment at all.
    Damaged,
}

/// How the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a whole frame.
    Clean,
    /// Behind the last whole frame lies what was being written.
    Torn,
    /// Bytes that were durable are not what was written.
    Damaged,
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Offset of each whole frame from the beginning.
    pub(crate) offsets: Vec<u32>,
    /// The last of them.
    pub(crate) last: Option<Head>,
    /// The newest index known to be committed.
    pub(crate) committed: u64,
    /// Behind the last whole frame.
    pub(crate) end: usize,
    pub(crate) how: End,
}

/// The header of the segment that begins with an index.
pub(crate) fn header(first: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&first.to_be_bytes());
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes
}

/// The index with which a segment begins.
pub(crate) fn read_header(bytes: &[u8]) -> Result<u64, BadHeader> {
    let header = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
    let version = u32_at(header, 8);
    if !header.starts_with(MAGIC) || crc32fast::hash(&header[..20]) != u32_at(header, 20) {
        return Err(BadHeader::Damaged);
    }
    if version > VERSION {
        return Err(BadHeader::Newer(version));
    }
    Ok(u64_at(header, 12))
}

/// Adds a frame.
pub(crate) fn encode(out: &mut Vec<u8>, head: &Head, payload: &[u8]) {
    let begin = out.len();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX); // the writer refuses what is over the limit
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let LogId { leader_id, index } = head.log_id;
    for number in [head.durable, head.committed, index, leader_id.term, leader_id.node_id] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(payload);
    let sum = sum(&out[begin..]).to_be_bytes();
    out[begin + 4..begin + 8].copy_from_slice(&sum);
}

/// The frame at the beginning of `bytes` with its payload, if it is whole.
pub(crate) fn decode(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let length = payload_length(bytes)?;
    let frame = bytes.get(..HEAD_BYTES + length)?;
    (sum(frame) == u32_at(frame, 4)).then(|| (head(frame), &frame[HEAD_BYTES..]))
}

/// How long the payload of the frame at the beginning of `bytes` says it is.
pub(crate) fn payload_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..HEAD_BYTES)?;
    let length = usize::try_from(u32_at(head, 0)).ok()?;
    (length <= PAYLOAD_BYTES_MAX).then_some(length)
}

fn sum(frame: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&frame[..4]);
    sum.update(&frame[8..]);
    sum.finalize()
}

fn head(frame: &[u8]) -> Head {
    Head {
        durable: u64_at(frame, 8),
        committed: u64_at(frame, 16),
        log_id: LogId::new(
            CommittedLeaderId::new(u64_at(frame, 32), u64_at(frame, 40)),
            u64_at(frame, 24),
        ),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    part.map_or(0, u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
    part.map_or(0, u64::from_be_bytes)
}

/// Reads the frames of a whole segment that begins with the index `first`.
pub(crate) fn scan(bytes: &[u8], first: u64) -> Scan {
    let mut found = Scan {
        offsets: Vec::new(),
        last: None,
        committed: 0,
        end: HEADER_BYTES,
        how: End::Clean,
    };
    while found.end < bytes.len() {
        let expected = first + found.offsets.len() as u64;
        let whole = decode(&bytes[found.end..]).filter(|(head, _)| head.log_id.index == expected);
        let (Some((head, payload)), Ok(offset)) = (whole, u32::try_from(found.end)) else {
            found.how = if was_durable(bytes, found.end) {
                End::Damaged
            } else {
                End::Torn
            };
            break;
        };
        found.offsets.push(offset);
        found.committed = found.committed.max(head.committed);
        found.last = Some(head);
        found.end += HEAD_BYTES + payload.len();
    }
    found
}

/// Whether a whole frame behind `at` says that the bytes at `at` had been durable before it was written.
fn was_durable(bytes: &[u8], at: usize) -> bool {
    let says_so = |offset: &usize| {
        let mark = u64_at(bytes, offset + 8);
        // The mark first: it is cheap, and few places look like one.
        mark > at as u64 && mark <= *offset as u64 && decode(&bytes[*offset..]).is_some()
    };
    (at + 1..bytes.len().saturating_sub(HEAD_BYTES - 1)).any(|offset| says_so(&offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(3, 1), index)
    }

    /// A segment of appends, each of some payloads.
    fn segment(first: u64, appends: &[&[&[u8]]]) -> Vec<u8> {
        let (mut bytes, mut index) = (header(first), first);
        for append in appends {
            let durable = bytes.len() as u64;
            for payload in *append {
                let head = Head {
                    log_id: id(index),
                    durable,
                    committed: index - 1,
                };
                encode(&mut bytes, &head, payload);
                index += 1;
            }
        }
        bytes
    }

    #[test]
    fn what_was_encoded_is_scanned() {
        let bytes = segment(7, &[&[b"a", b""], &[b"ccc"]]);
        assert_eq!(read_header(&bytes), Ok(7));
        let found = scan(&bytes, 7);
        assert_eq!(
            (found.offsets.len(), found.end, found.how),
            (3, bytes.len(), End::Clean)
        );
        assert_eq!(found.last.map(|head| head.log_id), Some(id(9)));
        assert_eq!(found.committed, 8);
        let (_, payload) = decode(&bytes[found.offsets[2] as usize..]).expect("whole");
        assert_eq!(payload, b"ccc");
    }

    #[test]
    fn a_torn_append_is_told_from_damage_at_every_byte() {
        let kept = segment(1, &[&[b"one"], &[b"two"]]);
        let bytes = segment(1, &[&[b"one"], &[b"two"], &[b"three", b"four", b"five"]]);
        for at in kept.len()..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 0x55;
            let found = scan(&torn, 1);
            assert_eq!(
                found.how,
                End::Torn,
                "byte {at}: nothing of this append was acknowledged"
            );
            assert!(found.end >= kept.len(), "byte {at}: what was durable is kept");
        }
        for at in HEADER_BYTES..kept.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            assert_eq!(scan(&damaged, 1).how, End::Damaged, "byte {at} was durable");
        }
        for at in 0..HEADER_BYTES {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            assert_eq!(read_header(&damaged), Err(BadHeader::Damaged), "byte {at}");
        }
    }

    #[test]
    fn a_tail_of_zeros_or_garbage_is_torn() {
        let whole = segment(1, &[&[b"one"], &[b"two"]]);
        for tail in [vec![0; 500], vec![0xff; 500], (0..=255).collect::<Vec<u8>>()] {
            let found = scan(&[whole.as_slice(), &tail].concat(), 1);
            assert_eq!((found.end, found.how), (whole.len(), End::Torn));
        }
    }

    #[test]
    fn a_newer_segment_is_named() {
        let mut bytes = segment(1, &[]);
        bytes[8..12].copy_from_slice(&(VERSION + 1).to_be_bytes());
        let sum = crc32fast::hash(&bytes[..20]).to_be_bytes();
        bytes[20..24].copy_from_slice(&sum);
        assert_eq!(read_header(&bytes), Err(BadHeader::Newer(VERSION + 1)));
    }
}
