//! The one binary, `isthmus`. Everything is in the library beside it.

use std::{thread, time::Duration};

/// The data path allocates per request: worth a few percent there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often what is free goes back to the system. The allocator by itself does that a second after a page was freed, and only
/// where something else is freed then: a registry that has taken in a large peer and is idle would keep twice what it needs.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(5);

fn give_back() {
    loop {
        thread::sleep(GIVE_BACK_EVERY);
        #[expect(
            unsafe_code,
            reason = "the allocator has no other interface; it may be called at any time, from any thread"
        )]
        // SAFETY: it takes nothing from the caller, and frees only what was freed before.
        unsafe {
            libmimalloc_sys::mi_collect(true);
        }
    }
}

fn main() -> cli::Exit {
    // Without it the process only needs more memory.
    let _ = thread::Builder::new().name("give-back".to_owned()).spawn(give_back);
    cli::run(std::env::args_os())
}
