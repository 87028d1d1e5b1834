//! Over real sockets: our own two ends, tokio-rustls as the other end, hand-over in the middle.

use super::*;
use crate::transport::roots;
use std::sync::OnceLock;
use tokio::net::TcpListener;

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    static MADE: OnceLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let (server, ca) = roots::self_signed(&["localhost"]).unwrap();
        (roots::client_config_from_pem(&ca).unwrap(), server)
    })
    .clone()
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

async fn pair(tls: bool) -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = configs();
    let connecting = Stream::connect(address, tls.then(|| (client, name())));
    let accepting = async {
        let (tcp, _) = listener.accept().await.unwrap();
        Stream::accept(tcp, tls.then_some(server)).await
    };
    let (client, server) = tokio::join!(connecting, accepting);
    (client.unwrap(), server.unwrap())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 253) as u8).collect()
}

#[tokio::test]
async fn a_megabyte_goes_through_both_ways_at_once() {
    for tls in [false, true] {
        let (client, server) = pair(tls).await;
        let data = pattern(1 << 20);
        let mut tasks = Vec::new();
        for stream in [client, server] {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let expected = data.clone();
            tasks.push(tokio::spawn(async move {
                let mut got = Vec::new();
                reader.read_to_end(&mut got).await.unwrap();
                assert!(got == expected);
            }));
            let data = data.clone();
            tasks.push(tokio::spawn(async move {
                writer.write_all(&data).await.unwrap();
                writer.shutdown().await.unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_connection_changes_hands_with_what_was_read() {
    for tls in [false, true] {
        let (mut client, mut server) = pair(tls).await;
        client.write_all(b"head and more").await.unwrap();
        client.flush().await.unwrap();
        let mut head = [0; 4];
        server.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"head");
        let mut established = server.into_established().unwrap();
        assert_eq!(established.tls.is_some(), tls);
        // What the first holder has read of the rest is still to be read by the next one.
        established.plaintext.splice(0..0, *b"HEAD");
        let mut server = Stream::from_established(established).unwrap();
        let mut rest = [0; 13];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"HEAD and more");
        server.write_all(b"answer").await.unwrap();
        server.flush().await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        assert!(server.peer_addr().is_some());
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error_and_with_it_an_end() {
    let (mut client, mut server) = pair(true).await;
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);

    let (mut client, mut server) = pair(true).await;
    // With everything read, so that the drop is a FIN and no reset.
    server.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    drop(client);
    let error = server.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn plain_http_to_a_tls_server_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let error = Stream::accept(tcp, Some(configs().1)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let mut alert = Vec::new();
    let _ = client.read_to_end(&mut alert).await;
    assert_eq!(alert.first(), Some(&21), "the peer got an alert record");
}

#[tokio::test]
async fn tokio_rustls_talks_with_us_in_both_roles() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client_config, server_config) = configs();
    for we_are_server in [true, false] {
        let data = pattern(200_000);
        let (a, b) = (data.clone(), data.clone());
        let server_config = server_config.clone();
        let client_config = client_config.clone();
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            if we_are_server {
                echo(Stream::accept(tcp, Some(server_config)).await.unwrap()).await;
            } else {
                let acceptor = tokio_rustls::TlsAcceptor::from(server_config);
                echo(acceptor.accept(tcp).await.unwrap()).await;
            }
        };
        let client = async {
            if we_are_server {
                let tcp = TcpStream::connect(address).await.unwrap();
                let connector = tokio_rustls::TlsConnector::from(client_config);
                ask(connector.connect(name(), tcp).await.unwrap(), a, b).await;
            } else {
                let tls = Some((client_config, name()));
                ask(Stream::connect(address, tls).await.unwrap(), a, b).await;
            }
        };
        tokio::join!(server, client);
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    stream.write_all(&got).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, data: Vec<u8>, expected: Vec<u8>) {
    stream.write_all(&data).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
}
