//! Where a daemon's admin pages listen. Reads no file itself.

use std::net::SocketAddr;

use crate::ops::Section;

/// `[admin]`: plain HTTP, therefore on loopback. The same address may be given for all three where the daemon says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `admin.ready`: `/ready`. Default `127.0.0.1:15021`; a Kubernetes probe needs `0.0.0.0:15021`.
    pub ready: SocketAddr,
    /// `admin.metrics`: `/metrics`. Default `127.0.0.1:15090`.
    pub metrics: SocketAddr,
    /// `admin.pages`: all pages. Default `127.0.0.1:15000`.
    pub pages: SocketAddr,
}

impl Settings {
    /// Reads the table `[admin]`; every fault is noted in it.
    #[must_use]
    pub fn read(section: &Section) -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let settings = Self {
            ready: section.or("ready", local(15021)),
            metrics: section.or("metrics", local(15090)),
            pages: section.or("pages", local(15000)),
        };
        section.finish_section();
        settings
    }
}
