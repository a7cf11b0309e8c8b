//! The region to the outside: what each API takes, checks and answers.

pub mod watch;
