//! Sealing and opening one TLS record of a carrier frame (400 B) and of a model delta (2.9 KB), both versions.
//!
//! `cargo bench --bench tls`. Opening is timed on records sealed beforehand, each of which is good once.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rustls_pki_types::ServerName;
use std::hint::black_box;
use voxrelay::transport::roots;
use voxrelay::transport::tls::Tls;

/// An established pair, TLS 1.3 with the provider's first suite.
fn pair() -> (Tls, Tls) {
    let (server, ca) = roots::self_signed(&["localhost"]).expect("a certificate");
    let client = roots::client_config_from_pem(&ca).expect("its root");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = Tls::client(client, name).expect("a client");
    let mut server = Tls::server(server).expect("a server");
    let (mut to_server, mut to_client, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    while client.is_handshaking() || server.is_handshaking() || !to_client.is_empty() {
        let mut input = std::mem::take(&mut to_client);
        client
            .open(&mut input, &mut plain, &mut to_server)
            .expect("the client's turn");
        let mut input = std::mem::take(&mut to_server);
        server
            .open(&mut input, &mut plain, &mut to_client)
            .expect("the server's turn");
    }
    (client, server)
}

fn seal_and_open(criterion: &mut Criterion) {
    for (label, len) in [("400B", 400), ("2900B", 2900)] {
        let mut group = criterion.benchmark_group("tls");
        group.throughput(Throughput::Bytes(len as u64));
        let data = vec![0x55; len];
        let mut out = vec![0; Tls::sealed_len_max(len)];

        let (mut client, _server) = pair();
        group.bench_function(format!("seal/{label}"), |bencher| {
            bencher.iter(|| client.seal(black_box(&data), &mut out).expect("sealed"));
        });

        let (mut client, mut server) = pair();
        let mut plain = Vec::with_capacity(len);
        let mut alerts = Vec::new();
        group.bench_function(format!("open/{label}"), |bencher| {
            bencher.iter_batched(
                || {
                    let mut record = vec![0; Tls::sealed_len_max(len)];
                    let sealed = client.seal(&data, &mut record).expect("sealed");
                    record.truncate(sealed);
                    record
                },
                |mut record| {
                    plain.clear();
                    server
                        .open(&mut record, &mut plain, &mut alerts)
                        .expect("opened");
                    // The record is dropped outside the timing.
                    record
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, seal_and_open);
criterion_main!(benches);
