use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::A},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::*;
use crate::{
    dns::{Settings, Upstreams, serve},
    ops::Metrics,
    runtime::{OnExit, Stop, Tasks},
    subscribe::{Contact, Demand, Interest, Publisher, demand},
};

const PATIENCE: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    tasks: Tasks,
    metrics: Metrics,
    publisher: Publisher,
}

async fn start(view: View, settings: Settings) -> Server {
    let (publisher, views) = Publisher::new(view);
    let (tasks, metrics) = (Tasks::new(Stop::default()), Metrics::default());
    let listen = "127.0.0.1:0".parse().unwrap();
    let serving = serve(settings, listen, views, locality("eu", "eu-a"), &tasks, &metrics)
        .await
        .unwrap();
    Server {
        address: serving.address,
        tasks,
        metrics,
        publisher,
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

impl Server {
    async fn udp_bytes(&self, request: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(request, self.address).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let len = timeout(PATIENCE, socket.recv(&mut buffer))
            .await
            .expect("an answer")
            .unwrap();
        buffer.truncate(len);
        buffer
    }

    async fn udp(&self, request: &Message) -> Message {
        Message::from_vec(&self.udp_bytes(&request.to_vec().unwrap()).await).unwrap()
    }

    async fn tcp(&self, requests: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answers = Vec::new();
        for request in requests {
            let bytes = request.to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let len = timeout(PATIENCE, stream.read_u16()).await.expect("an answer").unwrap();
            let mut answer = vec![0; usize::from(len)];
            stream.read_exact(&mut answer).await.unwrap();
            answers.push(Message::from_vec(&answer).unwrap());
        }
        answers
    }

    async fn end(self) {
        self.tasks.stop().order();
        self.tasks.join(PATIENCE).await.unwrap();
    }
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

#[tokio::test]
async fn both_transports_answer_with_authority() {
    let server = start(sample(), Settings::default()).await;
    let request = question("PAY.shop.svc.clusterset.local.", RecordType::A);
    let over_udp = server.udp(&request).await;
    let over_tcp = server.tcp(&[request.clone(), request.clone()]).await;
    for answer in over_tcp.iter().chain([&over_udp]) {
        assert_eq!(answer.metadata.id, request.metadata.id);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
        assert!(!answer.metadata.truncation && !answer.metadata.recursion_available);
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(answer.answers[0].ttl, 5);
        assert_eq!(answer.queries, request.queries, "the case is kept");
    }
    let told = server.metrics.render();
    assert!(told.contains("isthmus_dns_answers_total{code=\"NOERROR\"} 3"), "{told}");
    server.end().await;
}

#[tokio::test]
async fn no_name_and_no_data_carry_the_start_of_authority() {
    let server = start(sample(), Settings::default()).await;
    for (name, kind, code) in [
        ("none.shop.svc.clusterset.local.", RecordType::A, ResponseCode::NXDomain),
        ("pay.shop.svc.clusterset.local.", RecordType::TXT, ResponseCode::NoError),
        ("mars.region.isthmus.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = server.udp(&question(name, kind)).await;
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert!(answer.answers.is_empty() && answer.metadata.authoritative);
        let [soa] = answer.authorities.as_slice() else {
            panic!("{name}: {answer:?}")
        };
        assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 5));
    }
    server.end().await;
}

#[tokio::test]
async fn a_new_view_is_answered_at_once() {
    let server = start(View::default(), Settings::default()).await;
    let request = question("pay.shop.svc.clusterset.local.", RecordType::A);
    let answer = server.udp(&request).await;
    assert_eq!(
        answer.metadata.response_code,
        ResponseCode::ServFail,
        "nothing is known not to exist before the first view"
    );
    server.publisher.publish(sample());
    assert_eq!(server.udp(&request).await.answers.len(), 1);
    server.end().await;
}

/// Twelve endpoints on two ports: 24 SRV records of about 80 bytes.
fn large() -> View {
    let endpoints = (1..=12).map(|n| {
        let id = format!("db-{n}");
        let mut endpoint = endpoint("db.shop", &id, "eu", &format!("10.0.0.{n}"), EndpointState::Ready);
        endpoint.hostname = format!("a-rather-long-name-of-a-host-{n}");
        Resource::from(endpoint)
    });
    let services = [Resource::Service(service(
        "db.shop",
        true,
        &[("pg", 5432), ("metrics", 9187)],
    ))];
    view(services.into_iter().chain(endpoints).collect())
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_marked_and_whole_over_tcp() {
    let server = start(large(), Settings::default()).await;
    let all = question("db.shop.svc.clusterset.local.", RecordType::SRV);
    for (request, limit) in [
        (all.clone(), 512),
        (with_edns(all.clone(), 100), 512),
        (with_edns(all.clone(), 1000), 1000),
        // More than paths carry in one piece is not used.
        (with_edns(all.clone(), 65_000), 1232),
    ] {
        let bytes = server.udp_bytes(&request.to_vec().unwrap()).await;
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(
            answer.metadata.truncation && bytes.len() <= limit,
            "{limit}: {}",
            bytes.len()
        );
        assert_eq!(answer.edns.is_some(), request.edns.is_some());
    }
    let whole = server.tcp(&[all]).await.remove(0);
    assert!(!whole.metadata.truncation);
    assert_eq!((whole.answers.len(), whole.additionals.len()), (24, 12));
    server.end().await;
}

#[tokio::test]
async fn additional_records_are_left_out_before_the_answer_is_cut() {
    let server = start(large(), Settings::default()).await;
    let one_port = with_edns(
        question("_pg._tcp.db.shop.svc.clusterset.local.", RecordType::SRV),
        1232,
    );
    let answer = server.udp(&one_port).await;
    assert!(!answer.metadata.truncation);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (12, 0));
    server.end().await;
}

#[tokio::test]
async fn addresses_of_a_bounded_subset_fit_without_edns() {
    let server = start(large(), Settings::default()).await;
    let answer = server
        .udp(&question("db.shop.svc.clusterset.local.", RecordType::A))
        .await;
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 12);
    server.end().await;
}

#[tokio::test]
async fn what_is_no_plain_question_is_refused_and_the_server_lives_on() {
    let server = start(sample(), Settings::default()).await;
    let good = question("pay.shop.svc.clusterset.local.", RecordType::A);
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Status;
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    let mut none = good.clone();
    none.queries.clear();
    let mut newer = with_edns(good.clone(), 1232);
    newer.edns.as_mut().unwrap().set_version(1);
    for (name, request, code) in [
        ("other class", chaos, ResponseCode::Refused),
        ("other operation", update, ResponseCode::NotImp),
        ("two questions", two, ResponseCode::FormErr),
        ("no question", none, ResponseCode::FormErr),
        ("newer EDNS", newer, ResponseCode::BADVERS),
        (
            "transfer",
            question("clusterset.local.", RecordType::AXFR),
            ResponseCode::Refused,
        ),
        (
            "outside, no upstream",
            question("example.com.", RecordType::A),
            ResponseCode::Refused,
        ),
    ] {
        let answer = server.udp(&request).await;
        // By number: BADVERS and BADSIG share one.
        let got = u16::from(answer.metadata.response_code);
        assert_eq!(got, u16::from(code), "{name}");
        assert_eq!(answer.metadata.id, request.metadata.id, "{name}");
    }
    // A cut message is told so; what is no request at all gets no answer, which the next answer proves.
    let whole = good.to_vec().unwrap();
    let answer = Message::from_vec(&server.udp_bytes(&whole[..whole.len() - 3]).await).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    for silent in [vec![], vec![1, 2, 3], response.to_vec().unwrap()] {
        socket.send_to(&silent, server.address).await.unwrap();
    }
    socket.send_to(&whole, server.address).await.unwrap();
    let mut buffer = [0; 512];
    let len = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(Message::from_vec(&buffer[..len]).unwrap().answers.len(), 1);
    server.end().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let settings = Settings {
        idle: Duration::from_millis(100),
        ..Settings::default()
    };
    let server = start(sample(), settings).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[0]).await.unwrap();
    let read = timeout(PATIENCE, stream.read(&mut [0; 8]))
        .await
        .expect("closed in time");
    assert!(matches!(read, Ok(0) | Err(_)));
    server.end().await;
}

/// Answers every question with 192.0.2.7; with `bad` from another id first.
async fn upstream(tasks: &Tasks, code: ResponseCode) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let stop = tasks.stop().clone();
    tasks.spawn("upstream", OnExit::StopProcess, async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, client) = tokio::select! {
                received = socket.recv_from(&mut buffer) => received.unwrap(),
                () = stop.ordered() => return,
            };
            let request = Message::from_vec(&buffer[..len]).unwrap();
            let mut answer = Message::response(request.metadata.id.wrapping_add(1), OpCode::Query);
            answer.add_queries(request.queries.iter().cloned());
            answer.metadata.response_code = code;
            answer.metadata.recursion_available = true;
            // A guess with a wrong id comes first and must not count.
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            answer.metadata.id = request.metadata.id;
            if code == ResponseCode::NoError {
                let data = RData::A(A("192.0.2.7".parse().unwrap()));
                answer.add_answer(Record::from_rdata(request.queries[0].name().clone(), 60, data));
            }
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn other_names_are_forwarded_past_upstreams_that_fail() {
    let helpers = Tasks::new(Stop::default());
    let broken = upstream(&helpers, ResponseCode::ServFail).await;
    let good = upstream(&helpers, ResponseCode::NoError).await;
    let settings = Settings {
        upstreams: Upstreams::Servers(vec![broken, good]),
        ..Settings::default()
    };
    let server = start(sample(), settings).await;
    let request = question("www.example.com.", RecordType::A);
    let answer = server.udp(&request).await;
    assert_eq!(answer.metadata.id, request.metadata.id);
    assert_eq!(answer.answers[0].data.to_string(), "192.0.2.7");
    assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
    // Our own zones never leave.
    let own = server
        .udp(&question("none.shop.svc.clusterset.local.", RecordType::A))
        .await;
    assert_eq!(own.metadata.response_code, ResponseCode::NXDomain);
    server.end().await;
    helpers.stop().order();
    helpers.join(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_silent_upstream_ends_in_a_failure_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        upstreams: Upstreams::Servers(vec![silent.local_addr().unwrap()]),
        upstream_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    let server = start(sample(), settings).await;
    let request = question("www.example.com.", RecordType::A);
    let answer = server.udp(&request).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(answer.metadata.id, request.metadata.id);
    let over_tcp = server.tcp(&[request]).await.remove(0);
    assert_eq!(over_tcp.metadata.response_code, ResponseCode::ServFail);
    server.end().await;
}

#[tokio::test]
async fn forwarded_requests_beyond_the_bound_are_dropped_and_counted() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        upstreams: Upstreams::Servers(vec![silent.local_addr().unwrap()]),
        upstream_timeout: Duration::from_secs(30),
        in_flight_max: 1,
        ..Settings::default()
    };
    let server = start(sample(), settings).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = question("www.example.com.", RecordType::A).to_vec().unwrap();
    for _ in 0..3 {
        socket.send_to(&request, server.address).await.unwrap();
    }
    // An answer to a later request proves that all before it were seen.
    let own = server
        .udp(&question("pay.shop.svc.clusterset.local.", RecordType::A))
        .await;
    assert_eq!(own.answers.len(), 1);
    let told = server.metrics.render();
    assert!(told.contains("isthmus_dns_dropped_total 2"), "{told}");
    server.tasks.stop().order();
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_address() {
    let server = start(sample(), Settings::default()).await;
    let (_publisher, views) = Publisher::new(View::default());
    let (tasks, metrics) = (Tasks::new(Stop::default()), Metrics::default());
    let again = serve(
        Settings::default(),
        server.address,
        views,
        locality("eu", "eu-a"),
        &tasks,
        &metrics,
    );
    let error = again.await.expect_err("taken").to_string();
    assert!(error.contains(&server.address.to_string()), "{error}");
    server.end().await;
}

#[tokio::test]
async fn the_first_question_about_endpoints_asks_for_them_and_is_answered_when_they_come() {
    use crate::model::Coverage;
    use std::sync::Arc;
    let headless = |view: &View| {
        let mut services = view.services();
        let found = services.find(|(_, entry)| entry.service.as_ref().is_some_and(|it| it.headless));
        found.unwrap().0.clone()
    };
    let service = headless(&sample());
    let (publisher, views) = Publisher::new(sample().covering(Coverage::Of(Arc::default())));
    let (sender, mut interest) = tokio::sync::watch::channel(Interest::names(Default::default()));
    let (tasks, metrics) = (Tasks::new(Stop::default()), Metrics::default());
    let contact = Arc::new(Contact::new(None));
    contact.connect(true);
    let settings = demand::Settings {
        wait: Duration::from_millis(300),
        ..demand::Settings::default()
    };
    let demand = Demand::new(settings, Default::default(), views, sender, contact, &metrics);
    let listen = "127.0.0.1:0".parse().unwrap();
    let serving = serve(
        Settings::default(),
        listen,
        demand,
        locality("eu", "eu-a"),
        &tasks,
        &metrics,
    );
    let server = Server {
        address: serving.await.unwrap().address,
        tasks,
        metrics,
        publisher,
    };
    let asked = question(&format!("{service}.svc.clusterset.local."), RecordType::A);
    let answer = server.udp(&asked).await;
    assert_eq!(
        answer.metadata.response_code,
        ResponseCode::ServFail,
        "not known is not NXDOMAIN"
    );
    let (answer, ()) = tokio::join!(server.udp(&asked), async {
        timeout(PATIENCE, interest.wait_for(|it| it.services.contains(&service)))
            .await
            .unwrap()
            .unwrap();
        server.publisher.publish(sample());
    });
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(!answer.answers.is_empty());
    let [answer] = server.tcp(&[asked]).await.try_into().unwrap();
    assert!(!answer.answers.is_empty());
}
