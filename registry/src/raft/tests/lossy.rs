//! A file system in memory that loses what was not synced when its power is cut, at any operation.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::raft::storage::{File, Files};

/// What a cut does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All of it is gone.
    Everything,
    /// All of it happens to be there.
    Nothing,
    /// Each name and each part of each file is gone, there, or half there, as the seed says.
    Some(u64),
}

#[derive(Clone, Default)]
pub(super) struct Lossy(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    names: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    operations: u64,
    cut_at: Option<u64>,
    /// Bytes that may still be written; none = any number.
    room: Option<u64>,
}

type Inode = Arc<Mutex<Content>>;

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

struct Open {
    world: Lossy,
    inode: Inode,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap()
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Lossy {
    /// Cuts the power before the operation with this number.
    pub(super) fn cut_at(&self, operation: u64) {
        lock(&self.0).cut_at = Some(operation);
    }

    /// How many operations there were.
    pub(super) fn operations(&self) -> u64 {
        lock(&self.0).operations
    }

    pub(super) fn set_room(&self, room: Option<u64>) {
        lock(&self.0).room = room;
    }

    fn operate(&self) -> io::Result<MutexGuard<'_, World>> {
        let mut world = lock(&self.0);
        if world.cut_at.is_some_and(|at| world.operations >= at) {
            return Err(io::Error::other("the power is cut"));
        }
        world.operations += 1;
        Ok(world)
    }

    /// What is found after the cut.
    pub(super) fn reboot(&self, loss: Loss) -> Self {
        let mut random = match loss {
            Loss::Some(seed) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        let world = lock(&self.0);
        let mut names = world.durable.clone();
        let changed: Vec<&String> = world.names.keys().chain(world.durable.keys()).collect();
        for name in changed {
            let kept = match loss {
                Loss::Everything => false,
                Loss::Nothing => true,
                Loss::Some(_) => random.bool(),
            };
            match world.names.get(name).filter(|_| kept) {
                Some(inode) => drop(names.insert(name.clone(), Arc::clone(inode))),
                None if kept => drop(names.remove(name)),
                None => {}
            }
        }
        let survive = |(name, inode): (String, Inode)| {
            let content = lock(&inode).clone();
            let bytes = match loss {
                Loss::Everything => content.durable,
                Loss::Nothing => content.now,
                Loss::Some(_) => mix(content, &mut random),
            };
            let content = Content {
                now: bytes.clone(),
                durable: bytes,
            };
            (name, Arc::new(Mutex::new(content)))
        };
        let names: BTreeMap<String, Inode> = names.into_iter().map(survive).collect();
        Self(Arc::new(Mutex::new(World {
            durable: names.clone(),
            names,
            ..World::default()
        })))
    }

    /// Changes the bytes of a file as a test likes, durably.
    pub(super) fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let world = lock(&self.0);
        let mut content = lock(&world.names[name]);
        edit(&mut content.now);
        content.durable = content.now.clone();
    }

    pub(super) fn copy(&self) -> Self {
        self.reboot(Loss::Nothing)
    }
}

/// What was cut off is cut off or not; of what was written since, each part is there, zeros or garbage.
fn mix(content: Content, random: &mut fastrand::Rng) -> Vec<u8> {
    const BLOCK: usize = 16;
    let Content { now, durable } = content;
    if durable.starts_with(&now) {
        return if random.bool() { now } else { durable };
    }
    let mut at = now.iter().zip(&durable).take_while(|(one, other)| one == other).count();
    let mut bytes = now;
    while at < bytes.len() {
        let end = (at + random.usize(1..=BLOCK)).min(bytes.len());
        match random.u8(0..4) {
            0 => bytes[at..end].fill(0),
            1 => bytes[at..end].fill_with(|| random.u8(..)),
            _ => {}
        }
        at = end;
    }
    let least = durable.len().min(bytes.len());
    bytes.truncate(random.usize(least..=bytes.len()));
    bytes
}

impl Files for Lossy {
    fn list(&self, wanted: &str) -> io::Result<Vec<String>> {
        let world = self.operate()?;
        let inside = world.names.keys().filter(|name| folder(name) == wanted);
        Ok(inside.map(|name| name.rsplit('/').next().unwrap().to_owned()).collect())
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut world = self.operate()?;
        let inode = world.names.entry(name.to_owned()).or_default();
        lock(inode).now.clear();
        let inode = Arc::clone(inode);
        let world = self.clone();
        Ok(Arc::new(Open { world, inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let world = self.operate()?;
        let inode = Arc::clone(world.names.get(name).ok_or(io::ErrorKind::NotFound)?);
        let world = self.clone();
        Ok(Arc::new(Open { world, inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.operate()?;
        let inode = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.operate()?;
        world.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, wanted: &str) -> io::Result<()> {
        let mut world = self.operate()?;
        let World { names, durable, .. } = &mut *world;
        durable.retain(|name, _| folder(name) != wanted);
        let inside = names.iter().filter(|(name, _)| folder(name) == wanted);
        durable.extend(inside.map(|(name, inode)| (name.clone(), Arc::clone(inode))));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.0).room.unwrap_or(u64::MAX))
    }

    fn display(&self, name: &str) -> String {
        name.to_owned()
    }
}

impl File for Open {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.inode).now.len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let content = lock(&self.inode);
        let rest = content.now.get(at as usize..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world.operate()?;
        let mut content = lock(&self.inode);
        let end = at as usize + bytes.len();
        let grown = end.saturating_sub(content.now.len()) as u64;
        if let Some(room) = &mut world.room {
            if *room < grown {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= grown;
        }
        let length = content.now.len().max(end);
        content.now.resize(length, 0);
        content.now[at as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        drop(self.world.operate()?);
        lock(&self.inode).now.resize(length as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        drop(self.world.operate()?);
        let mut content = lock(&self.inode);
        content.durable = content.now.clone();
        Ok(())
    }
}
