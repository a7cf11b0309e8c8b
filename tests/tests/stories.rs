//! The stories: what the whole federation promises, one behaviour a file. One binary, because each costs a link of
//! everything.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]

mod stories {
    mod authorisation;
    mod autonomy;
    mod calls;
    mod config_faults;
    mod data_path;
    mod dns;
    mod doctor;
    mod drill;
    mod durability;
    mod export;
    mod failover;
    mod federation;
    mod hostile;
    mod identity;
    mod leader;
    mod lease;
    mod linear;
    mod metrics;
    mod noise;
    mod paths;
    mod quota;
    mod replacement;
    mod restart;
    mod rolling;
    mod snapshot;
    mod status_watch;
    mod watch;
}
