//! Gives what is free back to the system. The allocator by itself does so only where something else is freed at the same
//! place: a registry that has taken in a large peer and is idle would keep twice what it needs.

use std::{
    cell::Cell,
    ffi::c_long,
    io,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t, mi_option_use_numa_nodes};
use tokio::runtime::{Builder, Runtime};

/// How often each thread looks at its memory.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// `mi_option_purge_delay`: the binding does not name it, the allocator's header has it before this one.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;
/// How long a page stays after its last use; a second by default.
const PURGE_DELAY_MS: c_long = 10;

/// Counts the times at which all threads shall look.
static ROUND: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The round of this thread's last look.
    static LOOKED: Cell<u32> = const { Cell::new(0) };
}

/// Makes a runtime whose threads look after their memory when they have nothing else to do: what others freed of a thread's
/// pages is seen by that thread alone.
///
/// # Errors
/// As for [`Builder::build`].
pub(crate) fn tended(runtime: &mut Builder) -> io::Result<Runtime> {
    #[expect(unsafe_code, reason = "the allocator has no other interface")]
    // SAFETY: it takes two numbers.
    unsafe {
        mi_option_set(PURGE_DELAY, PURGE_DELAY_MS);
    }
    let runtime = runtime.on_thread_park(look).build()?;
    runtime.spawn(async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            ROUND.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(runtime)
}

fn look() {
    let round = ROUND.load(Ordering::Relaxed);
    if LOOKED.replace(round) == round {
        return;
    }
    #[expect(unsafe_code, reason = "the allocator has no other interface")]
    // SAFETY: it takes nothing from the caller, may be called at any time, and frees only what was freed before.
    unsafe {
        mi_collect(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_delay() {
        #[expect(unsafe_code, reason = "the allocator has no other interface")]
        // SAFETY: it takes a number.
        let default_ms = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(
            default_ms, 1000,
            "the allocator's header has changed: look where the option is now"
        );
    }
}
