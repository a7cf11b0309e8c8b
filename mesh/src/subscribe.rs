//! The subscription to the registry: keeps a view current, publishes it, and keeps it on disk for a start without registry;
//! and the lease by which a workload or a gateway is in other people's views.

mod asked;
pub mod attach;
pub mod cache;
mod contact;
pub mod demand;
mod interest;
mod keep;
mod publish;
mod session;
mod spending;

pub use attach::{Attachment, Lessee};
pub use contact::Contact;
pub use demand::Demand;
pub use interest::Interest;
pub use publish::{Publisher, Views};
pub use session::{Settings, Subscription};
pub use spending::{Confirmation, Spending};

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod samples {
    //! Views for tests.

    use crate::model::{
        Held, Incarnation, Port, Protocol, RegionId, Resource, Revision, Service, ServiceName, Timestamp, Update, View,
        virtual_ips,
    };

    pub(crate) fn service(name: &str) -> Service {
        let name = ServiceName::parse(name).unwrap();
        Service {
            virtual_ips: virtual_ips(&name, 0).to_vec(),
            name,
            ports: vec![Port {
                name: "http".to_owned(),
                number: 80,
                protocol: Protocol::Http,
            }],
            origins: Vec::new(),
            created_at: Timestamp(1),
            conflict: String::new(),
            exported_to: crate::model::Audience::Nobody,
            headless: false,
        }
    }

    pub(crate) fn update(incarnation: u64, revision: u64, full: bool, services: &[&str]) -> Update {
        Update {
            region: RegionId::parse("eu").unwrap(),
            held: Held {
                incarnation: Incarnation(incarnation),
                revision: Revision(revision),
            },
            full,
            upserts: services.iter().map(|name| Resource::Service(service(name))).collect(),
            removed: Vec::new(),
            committed_at: None,
        }
    }

    pub(crate) fn view(services: &[&str]) -> View {
        View::default().updated(update(7, 10, true, services))
    }
}
