//! The one binary, `isthmus`. Everything is in the library beside it.

/// The data path allocates per request: worth a few percent there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> cli::Exit {
    cli::run(std::env::args_os())
}
