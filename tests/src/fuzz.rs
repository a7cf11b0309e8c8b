//! Every parser of outside bytes, each as one plain function over any bytes: what the fuzzer runs without end, and what each
//! test run replays with the kept corpus and some thousand mutations. A target may refuse what it likes; it must not
//! panic, and what it takes must keep the promises that stand beside it here. Nothing in Isthmus reads YAML.

mod seeds;

use std::sync::OnceLock;

use mesh::{
    dns::{self, Asker},
    identity::{Bundle, Sni, SpiffeId, Svid, Token, TokenKind, TrustDomain, check_leaf},
    model::{
        Endpoint, Gateway, Locality, Override, RegionId, Resource, Service, ServiceName, Tenant, TenantShare,
        Timestamp, Update, View, Zone,
    },
    net::hello::{HELLO_BYTES_MAX, HelloReader, Progress},
};
use prost::Message;
use proto::{admin::v1 as admin, raft::v1 as raft, registry::v1 as pb};
use registry::{authority::Authority, outside};

pub use seeds::seeds;

/// A parser, by the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("update", update),
    ("records", records),
    ("agent", agent),
    ("operator", operator),
    ("peer", peer),
    ("raft", raft_request),
    ("token", token),
    ("spiffe_id", spiffe_id),
    ("sni", sni),
    ("hello", hello),
    ("dns_request", dns_request),
    ("dns_answer", dns_answer),
    ("dns_name", dns_name),
    ("bundle", bundle),
    ("certificate", certificate),
    ("signing_request", signing_request),
    ("config", config),
    ("http_target", http_target),
    ("http_framing", http_framing),
];

/// Fixed: a certificate's time must not decide what a run finds.
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A message of a watch, into the model: what is taken goes out again as it came in, and a view takes it.
pub fn update(data: &[u8]) {
    let Ok(message) = pb::Update::decode(data) else { return };
    let Ok(update) = Update::try_from(message) else { return };
    let again = Update::try_from(pb::Update::from(update.clone())).expect("what we send, we take");
    assert_eq!(again, update);
    let view = View::default().updated(update);
    assert!(view.resources().count() < 1 << 20);
}

/// Single records, into the model and out again.
pub fn records(data: &[u8]) {
    fn there_and_back<P, M>(data: &[u8], out: impl Fn(M) -> P)
    where
        P: Message + Default,
        M: TryFrom<P> + Clone + PartialEq + std::fmt::Debug,
    {
        let Some(model) = P::decode(data).ok().and_then(|message| M::try_from(message).ok()) else {
            return;
        };
        let Ok(again) = M::try_from(out(model.clone())) else {
            panic!("{model:?} is not taken back")
        };
        assert_eq!(again, model);
    }
    there_and_back::<pb::Service, Service>(data, Into::into);
    there_and_back::<pb::Endpoint, Endpoint>(data, |endpoint| (&endpoint).into());
    there_and_back::<pb::Gateway, Gateway>(data, Into::into);
    there_and_back::<pb::TrustBundle, Bundle>(data, Into::into);
    there_and_back::<pb::Tenant, Tenant>(data, Into::into);
    there_and_back::<pb::TenantShare, TenantShare>(data, Into::into);
    there_and_back::<pb::Override, Override>(data, Into::into);
    if let Some(kind) = pb::Resource::decode(data).ok().and_then(|resource| resource.kind) {
        // Whether it is taken is the update's affair.
        let _ = Resource::try_from(kind).is_ok();
    }
}

/// A message of an agent: what is taken is the caller's own.
pub fn agent(data: &[u8]) {
    // Whether it is taken does not matter here.
    let _ = outside::agent_message(data);
    let _ = pb::WatchRequest::decode(data).is_ok();
    let _ = pb::IssueRequest::decode(data).is_ok();
}

/// What operators send, decoded.
pub fn operator(data: &[u8]) {
    let decoded = [
        admin::PutTenantRequest::decode(data).is_ok(),
        admin::Export::decode(data).is_ok(),
        admin::ImportPolicy::decode(data).is_ok(),
        admin::JoinPeerRequest::decode(data).is_ok(),
        admin::StartDrillRequest::decode(data).is_ok(),
        admin::ResolveRequest::decode(data).is_ok(),
        admin::WhyRequest::decode(data).is_ok(),
    ];
    assert!(decoded.len() == 7);
}

/// What peers send.
pub fn peer(data: &[u8]) {
    outside::peer_message(data);
}

/// What the other nodes of a region send.
pub fn raft_request(data: &[u8]) {
    outside::raft_request(data);
    // It is taken apart field by field by its handler.
    let _ = raft::JoinRequest::decode(data).is_ok();
}

/// A token: what is read is written as it was, but for white space.
pub fn token(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for kind in [TokenKind::Workload, TokenKind::Peer, TokenKind::Node] {
        if let Ok(token) = Token::decode(text, kind) {
            assert_eq!(Token::decode(&token.encode(), kind).as_ref(), Ok(&token));
            assert!(!token.addresses.is_empty());
        }
    }
}

/// A SPIFFE ID: its parts are those of its text.
pub fn spiffe_id(data: &[u8]) {
    let Some(text) = text(data) else { return };
    // A bare name has a rule of its own.
    let _ = TrustDomain::parse(text).is_ok();
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    if let Some((namespace, account)) = id.workload() {
        assert_eq!(id.trust_domain().workload(&namespace, &account), id);
    }
}

/// A server name of the mesh: what is read is a name that TLS takes, and reads back.
pub fn sni(data: &[u8]) {
    let Some(sni) = text(data).and_then(|text| text.parse::<Sni>().ok()) else {
        return;
    };
    assert_eq!(sni.to_string().parse().as_ref(), Ok(&sni));
    assert!(sni.server_name().is_ok(), "{sni}");
}

/// A ClientHello, whole and cut in two: both are judged alike, and every byte is kept.
pub fn hello(data: &[u8]) {
    let Some((at, data)) = data.split_first() else { return };
    let mut reader = HelloReader::new(HELLO_BYTES_MAX);
    let whole = reader.feed(data);
    assert_eq!(reader.bytes(), data);
    let (first, second) = data.split_at(usize::from(*at).min(data.len()));
    let mut reader = HelloReader::new(HELLO_BYTES_MAX);
    let mut parts = reader.feed(first);
    if parts == Ok(Progress::NeedMore) {
        parts = reader.feed(second);
        assert_eq!(reader.bytes(), data);
        assert_eq!(parts, whole, "cut at {at}");
    }
    if let Ok(Progress::Done(hello)) = whole {
        assert!(hello.server_name.len() <= 253 && hello.server_name.is_ascii());
    }
}

fn view() -> &'static View {
    static VIEW: OnceLock<View> = OnceLock::new();
    VIEW.get_or_init(|| {
        let update = seeds::update();
        View::default().updated(Update::try_from(update).expect("a good update"))
    })
}

fn asker(from: &Locality) -> Asker<'_> {
    Asker {
        from,
        now: NOW,
        shuffle: 7,
        ttl: 5,
    }
}

fn here() -> Locality {
    Locality {
        region: RegionId::parse("eu").expect("valid"),
        zone: Zone::parse("a").expect("valid"),
    }
}

/// A DNS request, over UDP and TCP: a reply fits its way, and is a response to the same question.
pub fn dns_request(data: &[u8]) {
    let from = here();
    for over_tcp in [false, true] {
        let Some(reply) = dns::reply(view(), asker(&from), data, over_tcp) else {
            continue;
        };
        assert!(reply.len() <= if over_tcp { 65_535 } else { 1_232 });
        assert_eq!(reply[..2], data[..2], "the id");
        assert!(reply[2] & 0x80 != 0 && data[2] & 0x80 == 0, "a response, to a request");
    }
}

/// What an upstream answers to a request: the first two bytes say where one ends.
pub fn dns_answer(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (request, answer) = rest.split_at(length);
    if let Some(answer) = dns::fits(answer, request) {
        assert_eq!(answer[..2], request[..2], "the client's id");
    }
}

/// A name, as people and `resolv.conf` write it.
pub fn dns_name(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let from = here();
    let resolved = dns::resolve_text(view(), text, asker(&from));
    assert!(matches!(resolved.code, "NOERROR" | "NODATA" | "NXDOMAIN" | "REFUSED"));
    assert!(dns::system_upstreams(text).len() <= text.lines().count());
    if let Ok(name) = ServiceName::parse(text) {
        assert_eq!(name.to_string(), text);
    }
}

/// A SPIFFE bundle, alone or in a map: what is taken is written and taken again.
pub fn bundle(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (domain, region) = (TrustDomain::parse("eu").expect("valid"), here().region);
    if let Ok(bundle) = Bundle::parse_json(domain.clone(), region.clone(), text) {
        let again = Bundle::parse_json(domain, region.clone(), &bundle.to_json()).expect("what we write, we take");
        assert_eq!(again, bundle);
    }
    if let Ok(bundles) = Bundle::parse_map(&region, text) {
        let again = Bundle::parse_map(&region, &Bundle::to_json_map(&bundles)).expect("what we write, we take");
        assert_eq!(again, bundles);
    }
}

/// A certificate, as a leaf, as an anchor, and as an answer to a request.
pub fn certificate(data: &[u8]) {
    if let Ok(id) = check_leaf(&data.into()) {
        assert!(!id.path().is_empty());
    }
    let (domain, region) = (TrustDomain::parse("eu").expect("valid"), here().region);
    if let Ok(bundle) = Bundle::new(domain, region, 1, vec![data.to_vec()]) {
        assert_eq!(bundle.anchors().len(), 1);
    }
    // Its key is never right: it must only not fall over.
    let _ = Svid::parse(vec![data.to_vec()], vec![0; 32]).is_ok();
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let domain = TrustDomain::parse("eu").expect("valid");
        Authority::create(&here().region, &domain, NOW).expect("a root").0
    })
}

/// A signing request: what is signed is signed for the caller.
pub fn signing_request(data: &[u8]) {
    // Most are refused.
    let _ = outside::signing_request(authority(), data, NOW);
}

/// A settings file of each daemon: it is taken, or all of its faults have names.
pub fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let faults = [
        registry::Config::parse(text).err(),
        proxy::Config::parse(text).err(),
        eastwest_gateway::Config::parse(text).err(),
    ];
    for faults in faults.into_iter().flatten() {
        assert!(!faults.0.is_empty() && faults.0.iter().all(|fault| !fault.is_empty()));
    }
}

/// The first line and the Host header of a request of an application.
pub fn http_target(data: &[u8]) {
    let mut lines = data.splitn(4, |byte| *byte == b'\n');
    let (Some(version), Some(method), Some(uri), Some(host)) = (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    // Whom it is for is judged where it is read.
    let _ = proxy::outside::authority(method, uri, host, version == b"2");
}

/// HTTP/1 of an application, whole and cut in two.
pub fn http_framing(data: &[u8]) {
    let Some((at, data)) = data.split_first() else { return };
    // Ambiguous or not: both are right, as long as the cut does not matter.
    let _ = proxy::outside::framing(data, usize::from(*at));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Of each input.
    const MUTATIONS: usize = 400;

    fn mutate(random: &mut fastrand::Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..=bytes.len());
            match random.u8(0..7) {
                0 if at < bytes.len() => bytes[at] = random.u8(..),
                1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
                2 => bytes.insert(at, random.u8(..)),
                3 if at < bytes.len() => drop(bytes.remove(at)),
                4 => bytes.truncate(at),
                5 => {
                    let (end, from) = (random.usize(at..=bytes.len()), random.usize(0..=other.len()));
                    let piece = other[from..].iter().take(random.usize(0..32)).copied();
                    bytes.splice(at..end.min(at + 32), piece);
                }
                _ => {
                    let piece: Vec<_> = bytes[at..].iter().take(random.usize(0..64)).copied().collect();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }

    /// The corpus in the tree, the good inputs, and mutations of all of them; the same at each run.
    #[test]
    fn no_parser_falls_over() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let mut inputs = seeds(name);
            assert!(!inputs.is_empty(), "{name} has a good input to begin with");
            let mut kept: Vec<_> = fs::read_dir(root.join(name))
                .map(|files| files.map(|file| file.expect("readable").path()).collect())
                .unwrap_or_default();
            kept.sort();
            inputs.extend(kept.iter().map(|path| fs::read(path).expect("readable")));
            let mut random = fastrand::Rng::with_seed(4711);
            target(&[]);
            for (at, input) in inputs.iter().enumerate() {
                target(input);
                let other = &inputs[(at + 1) % inputs.len()];
                for _ in 0..MUTATIONS {
                    target(&mutate(&mut random, input, other));
                }
            }
        }
    }

    #[test]
    fn each_target_has_its_binary() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml");
        let manifest = fs::read_to_string(manifest).expect("the fuzzer's own workspace");
        for (name, _) in TARGETS {
            assert!(
                manifest.contains(&format!("name = \"{name}\"")),
                "{name} is missing in tests/fuzz/Cargo.toml"
            );
        }
    }
}
