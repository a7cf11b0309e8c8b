//! The one binary, `isthmus`: runs any daemon, the demo and the operator's commands.

fn main() {}
