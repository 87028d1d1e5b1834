//! A baseline for `voxrelay load`: the relay that a good engineer writes first in Rust, on tokio, tokio-tungstenite and
//! serde_json, and then tunes as far as these crates let it.
//!
//! One task a call, both WebSockets in it. What was tuned: a read buffer of 4 KiB in place of the library's 128 KiB (which
//! it zeroes before each read), events decoded into borrowed fields, one reused text buffer a direction, messages that are
//! ready together flushed together, `TCP_NODELAY`, mimalloc, and one thread by default. It passes audio undecoded, as
//! voxrelay does. What it does not do is everything else: no ledger of what was heard, no marks, no reconnect, no bounds.
//!
//! Run: `cargo run --release --example baseline-tokio -- --listen 127.0.0.1:8080 --model wss://127.0.0.1:9443/v1/realtime
//! --ca ca.pem`. Any path takes a carrier's stream.

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::Deserialize;
use std::borrow::Cow;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the session is told at its start: G.711 both ways.
const SESSION_UPDATE: &str = r#"{"type":"session.update","session":{"type":"realtime","audio":{"input":{"format":{"type":"audio/pcmu"},"turn_detection":{"type":"server_vad"}},"output":{"format":{"type":"audio/pcmu"}}}}}"#;

/// A carrier's message, as far as it matters here.
#[derive(Deserialize)]
struct CarrierMessage<'a> {
    event: &'a str,
    #[serde(rename = "streamSid", borrow, default)]
    stream_sid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    media: Option<Media<'a>>,
}

#[derive(Deserialize)]
struct Media<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow, default)]
    timestamp: Option<Cow<'a, str>>,
}

/// A model's event, as far as it matters here.
#[derive(Deserialize)]
struct ModelEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow, default)]
    delta: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    item_id: Option<Cow<'a, str>>,
}

/// One call's knowledge.
#[derive(Default)]
struct Call {
    stream_sid: String,
    /// The carrier's latest stamp, ms, and the one at which the current item began.
    now_ms: u64,
    item: Option<(String, u64)>,
}

struct Options {
    listen: SocketAddr,
    model: String,
    ca: Option<String>,
}

fn options() -> Fallible<Options> {
    let mut options = Options {
        listen: "127.0.0.1:0".parse()?,
        model: String::new(),
        ca: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--listen" => options.listen = value.parse()?,
            "--model" => options.model = value,
            "--ca" => options.ca = Some(value),
            _ => {
                return Err(
                    format!("unknown option {name}; there are --listen, --model, --ca").into(),
                );
            }
        }
    }
    if options.model.is_empty() {
        return Err("--model needs the model's ws:// or wss:// URL".into());
    }
    Ok(options)
}

/// The client side of TLS, trusting the certificates in the file.
fn connector(ca: Option<&str>) -> Fallible<TlsConnector> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in CertificateDer::pem_file_iter(path)? {
            roots.add(certificate?)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Small buffers: the defaults cost 128 KiB a connection, zeroed before every read.
fn small() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(4096)
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn dial(url: &str, tls: &TlsConnector) -> Fallible<WebSocketStream<Box<dyn Io>>> {
    let mut request = url.into_client_request()?;
    request
        .headers_mut()
        .insert("authorization", "Bearer sk-baseline".parse()?);
    let uri = request.uri().clone();
    let host = uri.host().ok_or("no host in the model's URL")?.to_owned();
    let secure = uri.scheme_str() == Some("wss");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    tcp.set_nodelay(true)?;
    let io: Box<dyn Io> = if secure {
        let name = rustls_pki_types::ServerName::try_from(host)?;
        Box::new(tls.connect(name, tcp).await?)
    } else {
        Box::new(tcp)
    };
    let (socket, _) = client_async_with_config(request, io, Some(small())).await?;
    Ok(socket)
}

impl Call {
    /// What the model is to get for a carrier's message; `None` ends the call.
    fn on_carrier(&mut self, text: &str) -> Fallible<Option<Option<Utf8Bytes>>> {
        let message: CarrierMessage<'_> = serde_json::from_str(text)?;
        match (message.event, message.media) {
            ("media", Some(media)) => {
                if let Some(stamp) = media.timestamp {
                    self.now_ms = stamp.parse().unwrap_or(self.now_ms);
                }
                let mut out = String::with_capacity(64 + media.payload.len());
                out.push_str(r#"{"type":"input_audio_buffer.append","audio":""#);
                out.push_str(&media.payload);
                out.push_str("\"}");
                Ok(Some(Some(out.into())))
            }
            ("start", _) => {
                self.stream_sid = message.stream_sid.unwrap_or_default().into_owned();
                Ok(Some(None))
            }
            ("stop", _) => Ok(None),
            _ => Ok(Some(None)),
        }
    }

    /// What the carrier and the model are to get for a model's event.
    fn on_model(&mut self, text: &str) -> Fallible<(Option<Utf8Bytes>, Option<Utf8Bytes>)> {
        let event: ModelEvent<'_> = serde_json::from_str(text)?;
        match event.kind {
            "response.output_audio.delta" | "response.audio.delta" => {
                let (Some(delta), Some(item)) = (event.delta, event.item_id) else {
                    return Ok((None, None));
                };
                if self.item.as_ref().is_none_or(|(known, _)| *known != *item) {
                    self.item = Some((item.into_owned(), self.now_ms));
                }
                let mut out = String::with_capacity(96 + delta.len());
                out.push_str(r#"{"event":"media","streamSid":""#);
                out.push_str(&self.stream_sid);
                out.push_str(r#"","media":{"payload":""#);
                out.push_str(&delta);
                out.push_str("\"}}");
                Ok((Some(out.into()), None))
            }
            "input_audio_buffer.speech_started" => {
                // The usual guess: what was heard is what time has passed since the item's first delta.
                let Some((item, began)) = self.item.take() else {
                    return Ok((None, None));
                };
                let clear = format!(r#"{{"event":"clear","streamSid":"{}"}}"#, self.stream_sid);
                let heard = self.now_ms.saturating_sub(began);
                let cut = format!(
                    r#"{{"type":"conversation.item.truncate","item_id":"{item}","content_index":0,"audio_end_ms":{heard}}}"#
                );
                Ok((Some(clear.into()), Some(cut.into())))
            }
            _ => Ok((None, None)),
        }
    }
}

async fn relay(stream: TcpStream, url: Arc<str>, tls: TlsConnector) -> Fallible<()> {
    stream.set_nodelay(true)?;
    let mut carrier = accept_async_with_config(stream, Some(small())).await?;
    let mut model = dial(&url, &tls).await?;
    model.send(Message::text(SESSION_UPDATE)).await?;
    let mut call = Call::default();
    loop {
        tokio::select! {
            first = carrier.next() => {
                // Whatever has arrived by now goes out with one flush.
                let mut next = Some(first);
                while let Some(message) = next {
                    let Some(message) = message else { return Ok(()) };
                    match message? {
                        Message::Text(text) => match call.on_carrier(&text)? {
                            Some(Some(append)) => model.feed(Message::Text(append)).await?,
                            Some(None) => {}
                            None => {
                                model.close(None).await?;
                                return Ok(());
                            }
                        },
                        Message::Close(_) => return Ok(()),
                        _ => {}
                    }
                    next = carrier.next().now_or_never();
                }
                model.flush().await?;
            }
            first = model.next() => {
                let mut next = Some(first);
                let mut answered = false;
                while let Some(message) = next {
                    let Some(message) = message else { return Ok(()) };
                    match message? {
                        Message::Text(text) => {
                            let (to_carrier, to_model) = call.on_model(&text)?;
                            if let Some(text) = to_carrier {
                                carrier.feed(Message::Text(text)).await?;
                            }
                            if let Some(text) = to_model {
                                model.feed(Message::Text(text)).await?;
                                answered = true;
                            }
                        }
                        Message::Close(_) => return Ok(()),
                        _ => {}
                    }
                    next = model.next().now_or_never();
                }
                carrier.flush().await?;
                if answered {
                    model.flush().await?;
                }
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let options = options()?;
    let tls = connector(options.ca.as_deref())?;
    let url: Arc<str> = options.model.into();
    let listener = TcpListener::bind(options.listen).await?;
    println!("baseline-tokio listens on {}", listener.local_addr()?);
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let (url, tls) = (Arc::clone(&url), tls.clone());
        tokio::spawn(async move {
            if let Err(error) = relay(stream, url, tls).await {
                eprintln!("call: {error}");
            }
        });
    }
}
