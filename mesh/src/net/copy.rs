//! Relays bytes between two TCP connections until both have said all they have to say. Short exchanges are copied through
//! a buffer that is borrowed only while bytes are in it; bulk is spliced inside the kernel where the system can. Reads
//! nothing of what it carries.

mod pool;
#[cfg(target_os = "linux")]
mod splice;

use std::{
    io,
    net::Shutdown,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use metrics::Counter;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::listen::reset_on_close;
pub use pool::Pool;

/// This many full buffers in a row make a transfer bulk.
#[cfg(target_os = "linux")]
const BULK_AFTER: u32 = 2;
/// Silence is noticed at the latest after the idle time and this fraction of it more.
const IDLE_CHECKS: u32 = 4;

/// How long a relay waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// No byte in either direction.
    pub idle: Duration,
    /// One side does not take what the other one has sent.
    pub stall: Duration,
}

/// Live counts of one relay; held handles, so that a long tunnel shows up while it runs.
#[derive(Clone)]
pub struct Meters {
    /// Bytes from the first connection to the second.
    pub forth: Counter,
    /// Bytes from the second connection to the first.
    pub back: Counter,
}

impl Meters {
    /// Counts for nobody.
    #[must_use]
    pub fn none() -> Self {
        Self {
            forth: Counter::noop(),
            back: Counter::noop(),
        }
    }
}

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides closed in order.
    Finished,
    /// Nothing moved for the idle time.
    Idle,
    /// One side did not take its bytes.
    Stalled,
    /// One side broke off; the other one was reset too.
    Broken(io::Error),
}

/// What a relay did.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// Bytes from the first connection to the second.
    pub forth_bytes: u64,
    /// Bytes from the second connection to the first.
    pub back_bytes: u64,
}

/// Relays between `first` and `second` until both directions are closed, one breaks, or patience ends. A half-close is
/// passed on and leaves the other direction open. Unless it finished in order, both peers see a reset, so that nobody
/// takes a part for the whole. Dropping the future cuts the relay in the same way as dropping the streams does.
pub async fn relay(
    mut first: TcpStream,
    mut second: TcpStream,
    patience: Patience,
    pool: &Pool,
    meters: &Meters,
) -> Outcome {
    let (forth, back) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = {
        let (first_read, first_write) = first.split();
        let (second_read, second_write) = second.split();
        let pump = |from, to, moved, meter| Pump {
            from,
            to,
            stall: patience.stall,
            pool,
            moved,
            meter,
        };
        let forth_pump = pump(first_read, second_write, &forth, &meters.forth);
        let back_pump = pump(second_read, first_write, &back, &meters.back);
        let both = async { tokio::try_join!(forth_pump.run(), back_pump.run()) };
        tokio::select! {
            done = both => match done {
                Ok(_) => End::Finished,
                Err(Fault::Stalled) => End::Stalled,
                Err(Fault::Broken(error)) => End::Broken(error),
            },
            () = silence(patience.idle, &forth, &back) => End::Idle,
        }
    };
    if !matches!(end, End::Finished) {
        reset_on_close(&first);
        reset_on_close(&second);
    }
    Outcome {
        end,
        forth_bytes: forth.into_inner(),
        back_bytes: back.into_inner(),
    }
}

/// Returns when nothing moved for `idle`. Looks from time to time instead of setting a timer per byte.
async fn silence(idle: Duration, forth: &AtomicU64, back: &AtomicU64) {
    let (mut seen, mut quiet) = (0, 0);
    while quiet < IDLE_CHECKS {
        tokio::time::sleep(idle / IDLE_CHECKS).await;
        let moved = forth.load(Ordering::Relaxed).wrapping_add(back.load(Ordering::Relaxed));
        quiet = if moved == seen { quiet + 1 } else { 0 };
        seen = moved;
    }
}

enum Fault {
    Stalled,
    Broken(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// One direction.
struct Pump<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    stall: Duration,
    pool: &'a Pool,
    moved: &'a AtomicU64,
    meter: &'a Counter,
}

impl Pump<'_> {
    /// Until the source is closed; then closes the target's direction.
    async fn run(mut self) -> Result<(), Fault> {
        let mut full_in_a_row = 0;
        loop {
            self.from.readable().await?;
            // Room first: a buffer then never waits with bytes in it for longer than a partial write takes.
            self.room().await?;
            let mut buffer = self.pool.buffer();
            // The source is readable, so that this does not wait; a short read also tells tokio that it is empty now,
            // which saves the read that would find it so.
            let count = self.from.read(buffer.bytes()).await?;
            if count == 0 {
                break;
            }
            self.write(&buffer.bytes()[..count]).await?;
            full_in_a_row = if count == buffer.bytes().len() {
                full_in_a_row + 1
            } else {
                0
            };
            drop(buffer);
            #[cfg(target_os = "linux")]
            if full_in_a_row >= BULK_AFTER {
                full_in_a_row = 0;
                if self.splice().await? {
                    break;
                }
            }
        }
        // A target that is gone already needs no word that this direction is over.
        let _ = SockRef::from(self.to.as_ref()).shutdown(Shutdown::Write);
        Ok(())
    }

    fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.meter.increment(bytes);
    }

    /// Waits until the target takes bytes.
    async fn room(&self) -> Result<(), Fault> {
        tokio::time::timeout(self.stall, self.to.writable())
            .await
            .map_err(|_| Fault::Stalled)?
            .map_err(Fault::Broken)
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match self.to.try_write(bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.count(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Moves bytes inside the kernel for as long as they keep coming. True at the end of the source, false when it has
    /// nothing more for now or no pipe is free.
    #[cfg(target_os = "linux")]
    async fn splice(&self) -> Result<bool, Fault> {
        let Some(pipe) = self.pool.pipe() else {
            return Ok(false);
        };
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        loop {
            let mut held = match from.try_io(Interest::READABLE, || pipe.fill_from(from)) {
                Ok(0) => return Ok(true),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            while held > 0 {
                match to.try_io(Interest::WRITABLE, || pipe.empty_into(to, held)) {
                    Ok(count) => {
                        held -= count;
                        self.count(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await?,
                    Err(error) => return Err(error.into()),
                }
            }
            // A transfer that never has to wait must not starve the other connections of this thread.
            tokio::task::coop::consume_budget().await;
        }
    }
}

#[cfg(test)]
mod tests;
