//! What is written can be read back, and a listener gives nobody more than his turn.

use super::*;

struct Two;

impl Watched for Two {
    fn metrics(&self) -> String {
        let mut out = Exposition::default();
        out.family(
            "legation_things_total",
            Kind::Counter,
            "Things\nand \\ more.",
        )
        .sample(&[("what", "a \"b\" \\ c\nd"), ("of", "é")], 3.0)
        .sample(&[], 0.5);
        out.gauge(
            "legation_moment_timestamp_seconds",
            "When.",
            &[],
            seconds(1_763_800_000_123),
        );
        out.finish()
    }
    fn ready(&self) -> Result<(), String> {
        Err("not yet".into())
    }
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn special_characters_are_escaped() {
    assert_eq!(
        Two.metrics(),
        "# HELP legation_things_total Things\\nand \\\\ more.\n# TYPE legation_things_total counter\n\
         legation_things_total{what=\"a \\\"b\\\" \\\\ c\\nd\",of=\"é\"} 3\nlegation_things_total 0.5\n\
         # HELP legation_moment_timestamp_seconds When.\n# TYPE legation_moment_timestamp_seconds gauge\n\
         legation_moment_timestamp_seconds 1763800000.123\n"
    );
}

#[test]
fn a_listener_answers_what_it_knows_and_nothing_else() {
    let listener = Listener::start("127.0.0.1:0".parse().unwrap(), Arc::new(Two)).unwrap();
    let at = listener.local_addr();
    // One who says nothing, and one who says too much, take their turn and no more.
    let _silent = TcpStream::connect(at).unwrap();
    let mut long = TcpStream::connect(at).unwrap();
    let _ = long.write_all(&vec![b'x'; 64 << 10]);
    let said = ask(at, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Type: {CONTENT_TYPE}")));
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    assert_eq!(body, Two.metrics());
    assert!(ask(at, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(ask(at, "GET /healthz HTTP/1.0\r\n\r\n").ends_with("\r\n\r\nok\n"));
    let unready = ask(at, "GET /readyz HTTP/1.1\r\n\r\n");
    assert!(unready.starts_with("HTTP/1.1 503 ") && unready.ends_with("not yet\n"));
    assert!(ask(at, "GET /v1/ HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(at, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    drop(listener);
    assert!(TcpStream::connect(at).is_err(), "it ended");
}
