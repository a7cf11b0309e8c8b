//! A good input or more for each target: where the fuzzer begins, and what mutations in the tests begin with.

use std::collections::BTreeMap;

use mesh::{
    identity::{KeyRequest, Secret, Token, TokenKind, TrustDomain},
    model::{RegionId, Timestamp},
};
use prost::Message;
use proto::{admin::v1 as admin, federation::v1 as federation, raft::v1 as raft, registry::v1 as pb};
use registry::authority::Authority;

use super::NOW;

fn service() -> pb::Service {
    pb::Service {
        name: "pay".into(),
        namespace: "shop".into(),
        ports: vec![port()],
        virtual_ips: vec!["240.0.0.1".into()],
        origins: vec!["eu".into()],
        created_at_ms: 1,
        exported_to: vec!["us".into()],
        ..pb::Service::default()
    }
}

fn port() -> pb::Port {
    pb::Port {
        name: "http".into(),
        number: 80,
        protocol: "http".into(),
    }
}

fn endpoint() -> pb::Endpoint {
    pb::Endpoint {
        id: "ep-1".into(),
        service: "pay".into(),
        namespace: "shop".into(),
        region: "eu".into(),
        cluster: "eu-1".into(),
        zone: "a".into(),
        address: "10.0.0.1".into(),
        inbound_port: 15006,
        state: pb::EndpointState::Ready.into(),
        weight: 100,
        labels: BTreeMap::from([("version".to_owned(), "v1".to_owned())]),
        spiffe_id: "spiffe://eu/ns/shop/sa/pay".into(),
        ports: vec![80],
        ..pb::Endpoint::default()
    }
}

fn gateway() -> pb::Gateway {
    pb::Gateway {
        id: "gw-1".into(),
        region: "eu".into(),
        cluster: "eu-1".into(),
        address: "gw.eu:15443".into(),
        state: pb::EndpointState::Ready.into(),
        spiffe_id: "spiffe://eu/ns/isthmus-system/sa/gateway".into(),
    }
}

fn workload() -> pb::Workload {
    pb::Workload {
        id: "pay-1".into(),
        namespace: "shop".into(),
        service_account: "pay".into(),
        cluster: "eu-1".into(),
        zone: "a".into(),
        address: "10.0.0.7".into(),
        inbound_port: 15006,
        services: vec![pb::WorkloadService {
            name: "pay".into(),
            ports: vec![port()],
            headless: false,
        }],
        state: pb::EndpointState::Ready.into(),
        ..pb::Workload::default()
    }
}

fn resource(kind: pb::resource::Kind) -> pb::Resource {
    pb::Resource { kind: Some(kind) }
}

/// An update with a service, an endpoint and a gateway.
pub(super) fn update() -> pb::Update {
    use pb::resource::Kind;
    pb::Update {
        region: "eu".into(),
        held: Some(pb::Held {
            incarnation: 7,
            revision: 9,
        }),
        full: true,
        upserts: vec![
            resource(Kind::Service(service())),
            resource(Kind::Endpoint(endpoint())),
            resource(Kind::Gateway(gateway())),
        ],
        removed: vec!["endpoint/pay.shop/ep-2".into()],
        committed_at_ms: 1,
        more: false,
        interest: 0,
    }
}

fn attach(kind: pb::agent_message::Kind) -> Vec<u8> {
    pb::AgentMessage { kind: Some(kind) }.encode_to_vec()
}

/// The root, a leaf and a request: new keys each time, because the fuzzer needs their form and not their numbers.
fn der() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (region, domain) = (
        RegionId::parse("eu").expect("valid"),
        TrustDomain::parse("eu").expect("valid"),
    );
    let (authority, root) = Authority::create(&region, &domain, NOW).expect("a root");
    let request = KeyRequest::generate().expect("a key");
    let id = mesh::identity::SpiffeId::parse(registry::outside::CALLER).expect("valid");
    let hour = std::time::Duration::from_secs(3600);
    let chain = authority.issue(request.der(), &id, hour, NOW).expect("a leaf");
    let leaf = chain.into_iter().next().expect("a leaf");
    (root.certificate().to_vec(), leaf, request.der().to_vec())
}

fn token(kind: TokenKind) -> Vec<u8> {
    let token = Token {
        kind,
        region: RegionId::parse("eu").expect("valid"),
        trust_domain: TrustDomain::parse("eu").expect("valid"),
        addresses: vec!["r1.eu:15012".to_owned()],
        anchors: vec![vec![1, 2, 3]],
        secret: Secret::from_bytes(&[7; 32]).expect("32 bytes"),
        expires_at: Timestamp(1),
    };
    token.encode().into_bytes()
}

/// A ClientHello that names a service, behind the byte that says where it is cut.
fn hello() -> Vec<u8> {
    let name = b"outbound_.80_._.pay.shop.svc.cluster.local";
    let list16 = |inner: &[u8]| [&u16::try_from(inner.len()).expect("short").to_be_bytes()[..], inner].concat();
    let host = list16(&[&[0][..], &list16(name)].concat());
    let alpn = list16(&list16(b"\x05istio\x02h2"));
    let extensions = list16(&[&[0, 0][..], &list16(&host), &[0, 16], &alpn].concat());
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(extensions);
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]][..], &body].concat();
    [&[20, 22, 3, 1][..], &list16(&message)].concat()
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).expect("a label"));
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn answered(request: &[u8]) -> Vec<u8> {
    let mut answer = request.to_vec();
    (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 1]);
    let length = u16::try_from(request.len()).expect("short").to_be_bytes();
    [&length[..], request, &answer].concat()
}

const REGISTRY: &str = "region = 'eu'\ndata_dir = '/d'\n[advertise]\napi = 'r:15012'\nraft = 'r:15013'\nfederation = 'r:15016'\n\
    [lease]\nttl = '10s'\n[limits]\nagents = 5\n[raft]\nheartbeat = '100ms'\n[dns]\nttl = '5s'\n";
const PROXY: &str = "region = 'eu'\ncluster = 'eu-1'\nregistry = ['r:15012']\ndata_dir = '/d'\n[workload]\nid = 'pay-1'\n\
    namespace = 'shop'\naddress = '10.0.0.5'\n[workload.labels]\nv = '1'\n[[service]]\nname = 'pay'\nport = 80\n\
    app = '127.0.0.1:8080'\n[service.health]\nkind = 'http'\npath = '/h'\n[[upstream]]\nservice = 'x.y'\n";
const GATEWAY: &str = "region = 'eu'\ncluster = 'eu-1'\nid = 'g-1'\nadvertise = 'g:15443'\nregistry = ['r:15012']\n\
    data_dir = '/d'\n[limits]\nhello_bytes = 16384\n[timeouts]\nhello = '5s'\n[admin]\nready = '127.0.0.1:1'\n";

/// The good inputs of a target; none for a name that is none.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    use pb::agent_message::Kind;
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "update" => vec![update().encode_to_vec()],
        "records" => vec![
            service().encode_to_vec(),
            endpoint().encode_to_vec(),
            gateway().encode_to_vec(),
            resource(pb::resource::Kind::Endpoint(endpoint())).encode_to_vec(),
        ],
        "agent" => vec![
            attach(Kind::Attach(workload())),
            attach(Kind::Gateway(gateway())),
            attach(Kind::Heartbeat(pb::Heartbeat::default())),
        ],
        "operator" => vec![
            admin::Export {
                service: "pay.shop".into(),
                to: vec!["us".into()],
                ..admin::Export::default()
            }
            .encode_to_vec(),
        ],
        "peer" => vec![card().encode_to_vec()],
        "raft" => vec![
            raft::Payload {
                body: vec![1, 0, 1, 2, 0].into(),
            }
            .encode_to_vec(),
            vec![1, 7, 1, 1, 0, 3, 1, 1, 0, 0, 0],
        ],
        "token" => vec![
            token(TokenKind::Workload),
            token(TokenKind::Peer),
            token(TokenKind::Node),
        ],
        "spiffe_id" => texts(&["spiffe://eu/ns/shop/sa/pay", "spiffe://eu.example/a/b"]),
        "sni" => texts(&[
            "outbound_.80_._.pay.shop.svc.cluster.local",
            "outbound_.80_.ep-1_.pay.shop.svc.cluster.local",
        ]),
        "hello" => vec![hello()],
        "dns_request" => vec![
            question("pay.shop.svc.clusterset.local", 1),
            question("_http._tcp.pay.shop.svc.clusterset.local", 33),
            question("pay.shop.svc.eu.region.isthmus", 28),
            question("example.com", 255),
        ],
        "dns_answer" => vec![answered(&question("example.com", 1))],
        "dns_name" => texts(&["pay.shop", "pay.shop.svc.clusterset.local.", "nameserver 192.0.2.1\n"]),
        "bundle" => {
            let (root, ..) = der();
            let (domain, region) = (
                TrustDomain::parse("eu").expect("valid"),
                RegionId::parse("eu").expect("valid"),
            );
            let bundle = mesh::identity::Bundle::new(domain, region, 3, vec![root]).expect("a root");
            let map = mesh::identity::Bundle::to_json_map([&bundle]);
            vec![bundle.to_json().into_bytes(), map.into_bytes()]
        }
        "certificate" => {
            let (root, leaf, _) = der();
            vec![root, leaf]
        }
        "signing_request" => vec![der().2],
        "config" => texts(&[REGISTRY, PROXY, GATEWAY]),
        "http_target" => texts(&[
            "1\nGET\n/a\npay.shop:80",
            "2\nGET\nhttp://pay.shop/\npay.shop",
            "1\nCONNECT\na:1\na:1",
        ]),
        "http_framing" => texts(&[
            "\tPOST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nabGET / HTTP/1.1\r\n\r\n",
            "\tPOST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n",
        ]),
        _ => Vec::new(),
    }
}

fn card() -> federation::AcceptRequest {
    let (root, ..) = der();
    federation::AcceptRequest {
        card: Some(federation::PeerCard {
            region: "eu".into(),
            bundle: Some(pb::TrustBundle {
                trust_domain: "eu".into(),
                sequence: 1,
                anchors: vec![root.into()],
                refresh_hint_seconds: 300,
                region: "eu".into(),
            }),
            addresses: vec!["r:15016".into()],
            incarnation: 7,
        }),
        ..federation::AcceptRequest::default()
    }
}
