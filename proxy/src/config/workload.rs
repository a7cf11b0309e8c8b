//! `[workload]`: who the application beside this proxy is.

use std::{collections::BTreeMap, net::IpAddr};

use mesh::{
    model::{Namespace, ServiceAccount, WorkloadId},
    ops::Section,
};

/// `[workload]`: who the application is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// `workload.id`: unique in the mesh, the same after a restart. Required.
    pub id: WorkloadId,
    /// `workload.namespace`. Required: with the service account it is the identity.
    pub namespace: Namespace,
    /// `workload.service_account`. Default `default`, as in Kubernetes.
    pub service_account: ServiceAccount,
    /// `workload.address`: where the cluster's network reaches the inbound listener. Default: the address of
    /// `inbound.listen`, which must then not be 0.0.0.0.
    pub address: Option<IpAddr>,
    /// `workload.hostname`: for names of single endpoints of headless services. Default: made from the address.
    pub hostname: String,
    /// `workload.weight`: relative share among equals, 1 to 1000. Default 100.
    pub weight: u32,
    /// `workload.capacity_rps`: requests per second that it can take; 0, the default, declares none.
    pub capacity_rps: u32,
    /// `[workload.labels]`: free text by key. Default none.
    pub labels: BTreeMap<String, String>,
}

impl WorkloadConfig {
    /// Reads the table `[workload]`; none when a required value is missing or bad, which is noted then.
    pub(super) fn read(section: &Section) -> Option<Self> {
        let (id, namespace) = (section.required("id"), section.required("namespace"));
        let account = section.optional("service_account");
        let address: Option<String> = section.optional("address");
        let address = address.and_then(|text| {
            let parsed = text.parse::<IpAddr>();
            let unusable = |ip: &IpAddr| ip.is_unspecified() || ip.is_multicast();
            if parsed.as_ref().map_or(true, unusable) {
                section.fault(
                    "address",
                    format!("{text:?} is no address that others could reach; write for example \"10.0.0.5\""),
                );
            }
            parsed.ok()
        });
        let hostname: String = section.or("hostname", String::new());
        if !hostname.is_empty() && WorkloadId::parse(&hostname).is_err() {
            section.fault(
                "hostname",
                format!("{hostname:?} is no label of a name; use lower-case letters, digits and '-'"),
            );
        }
        let weight = section.or("weight", 100);
        if !(1..=1000).contains(&weight) {
            section.fault("weight", format!("{weight} is not from 1 to 1000"));
        }
        let labels = section.or("labels", BTreeMap::new());
        let capacity_rps = section.or("capacity_rps", 0);
        section.finish_section();
        Some(Self {
            id: id?,
            namespace: namespace?,
            service_account: account.or_else(|| ServiceAccount::parse("default").ok())?,
            address,
            hostname,
            weight,
            capacity_rps,
            labels,
        })
    }
}
