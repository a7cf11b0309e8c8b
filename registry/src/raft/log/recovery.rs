//! Opens the log that the last run has left: see `log` for what a crash can have left.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::AtomicBool},
};

use tracing::{info, warn};

use super::{
    Limits, Log, LogError, Shape,
    frame::{self, BadHeader, End, Scan},
    segment::{self, FOLDER, Segment, name},
};
use crate::raft::{
    storage::{File, Files},
    type_config::LogId,
};

/// The log of a data directory, of which all up to `purged` does not count any more. Blocks for as long as reading it
/// takes.
pub(crate) fn recover(files: Arc<dyn Files>, purged: Option<LogId>, limits: Limits) -> Result<Log, LogError> {
    let in_folder = |source| LogError::File {
        file: files.display(FOLDER),
        source,
    };
    files.make_folder(FOLDER).map_err(in_folder)?;
    let firsts = relevant(&*files, purged).map_err(in_folder)?;
    let mut log = Log {
        limits,
        segments: VecDeque::new(),
        purged,
        last: None,
        committed: 0,
        broken: false,
        shape: Arc::new(Shape {
            no_room: AtomicBool::new(false),
            ..Shape::default()
        }),
        files,
    };
    let begins_by = purged.map_or(1, |purged| purged.index + 1);
    for (at, &first) in firsts.iter().enumerate() {
        let expected = log.segments.back().map(Segment::next);
        if expected.map_or(first > begins_by, |expected| first != expected) {
            return Err(LogError::Gap {
                file: log.files.display(&name(first)),
                missing: expected.unwrap_or(begins_by),
            });
        }
        let is_newest = at + 1 == firsts.len();
        let (segment, found) = open(&*log.files, first, is_newest)?;
        log.segments.push_back(segment);
        log.last = found.last.map_or(log.last, |head| Some(head.log_id));
        log.committed = log.committed.max(found.committed);
    }
    if let Some(purged) = purged.filter(|purged| log.segments.back().is_some_and(|end| end.next() <= purged.index)) {
        log.last = None;
        log.purge(purged)?;
    }
    log.keep_room();
    log.sketch();
    info!(files = log.segments.len(), last = ?log.last().map(|last| last.index), "log is read");
    Ok(log)
}

/// The first indices of the files that count, in order; the others are removed.
fn relevant(files: &dyn Files, purged: Option<LogId>) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for file in files.list(FOLDER)? {
        match segment::first(&file) {
            Some(first) => firsts.push(first),
            None => files.remove(&format!("{FOLDER}/{file}"))?,
        }
    }
    firsts.sort_unstable();
    let begin = purged.map_or(0, |purged| {
        let before = firsts.partition_point(|first| *first <= purged.index + 1);
        before.saturating_sub(1)
    });
    for &first in &firsts[..begin] {
        files.remove(&name(first))?;
    }
    files.sync_directory(FOLDER)?;
    firsts.drain(..begin);
    Ok(firsts)
}

fn open(files: &dyn Files, first: u64, is_newest: bool) -> Result<(Segment, Scan), LogError> {
    let file_name = || files.display(&name(first));
    let failed = |source| LogError::File {
        file: file_name(),
        source,
    };
    let file = files.open(&name(first)).map_err(failed)?;
    let bytes = all(&*file).map_err(failed)?;
    let damaged = |offset: usize| LogError::Damaged {
        file: file_name(),
        offset: offset as u64,
    };
    match frame::read_header(&bytes) {
        Ok(found) if found == first => {}
        Ok(_) | Err(BadHeader::Damaged) => return Err(damaged(0)),
        Err(BadHeader::Newer(found)) => {
            let file = file_name();
            return Err(LogError::Newer { file, found });
        }
    }
    let mut found = frame::scan(&bytes, first);
    match (found.how, is_newest) {
        (End::Clean, false) => {}
        (End::Damaged, _) | (End::Torn, false) => return Err(damaged(found.end)),
        (End::Clean, true) => file.sync().map_err(failed)?, // by a killed process it may have been written only
        (End::Torn, true) => {
            let (file_name, bytes) = (file_name(), bytes.len() - found.end);
            warn!(
                file = file_name,
                at = found.end,
                bytes,
                "the end of the log was torn by a crash and is cut: it was never acknowledged"
            );
            file.set_length(found.end as u64).map_err(failed)?;
            file.sync().map_err(failed)?;
        }
    }
    let offsets = std::mem::take(&mut found.offsets);
    Ok((Segment::found(first, file, offsets, found.end as u64), found))
}

fn all(file: &dyn File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
