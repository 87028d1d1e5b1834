//! Media-stream paths, as far as they reach control: ordinary requests to them, and upgrades on a connection that
//! was kept alive after an ordinary request. Those go back through the desk's admission, like any at the door.

use super::Shared;
use super::error::{ApiError, code, of_status};
use super::router::{Peer, RequestId};
use super::status;
use super::strict::StrictHeads;
use crate::base::route::{Resolved, resolve};
use crate::bus::command::{AdmitAnswer, ToDesk};
use crate::transport::Established;
use crate::transport::stream::Stream;
use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A body that nobody wants is read up to this.
const POST_BYTES_MAX: usize = 64 * 1024;
/// How long the desk may take to decide.
const ADMIT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the 101 may take to be written.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

const NEEDS_UPGRADE: ApiError = ApiError {
    status: StatusCode::UPGRADE_REQUIRED,
    message: "This is a media stream: connect to it as a WebSocket.",
    headers: &[
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
    ],
};
/// The connection can't be used again after either.
const BROKEN_BODY: ApiError = ApiError {
    status: StatusCode::BAD_REQUEST,
    message: "The request's body is broken.",
    headers: &[("connection", "close")],
};
const LONG_BODY: ApiError = ApiError {
    status: StatusCode::PAYLOAD_TOO_LARGE,
    message: "The request's body is too long.",
    headers: &[("connection", "close")],
};
const DESK_BUSY: ApiError = ApiError::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "The front desk is busy; try again.",
);

/// GET on a stream's path: an upgrade, or 426.
pub async fn get(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if is_upgrade(request.headers()) {
        return admit(&shared, request).await;
    }
    NEEDS_UPGRADE.into_response()
}

/// POST on a stream's path: a health check. Its body is of no interest, but must be whole and short.
pub async fn post(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    to_bytes(request.into_body(), POST_BYTES_MAX)
        .await
        .map_err(|error| {
            let source = error.source();
            match source.is_some_and(|source| source.is::<LengthLimitError>()) {
                true => LONG_BODY,
                false => BROKEN_BODY,
            }
        })?;
    Ok(Json(status::report(&shared)))
}

/// Whatever no route takes. An upgrade gets the desk's refusal and the connection ends, like one at the door.
pub async fn fallback(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if is_upgrade(request.headers()) {
        return admit(&shared, request).await;
    }
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    match resolve(target) {
        // A stream's path in another spelling than the router's (an encoded question mark).
        Resolved::Stream { .. } => NEEDS_UPGRADE.into_response(),
        Resolved::BadId(message) => ApiError::new(StatusCode::BAD_REQUEST, message).into_response(),
        Resolved::ConformanceEcho | Resolved::Other => {
            of_status(StatusCode::NOT_FOUND).into_response()
        }
    }
}

/// Whether the client asks for a WebSocket. What is wrong with the request besides is the desk's to say.
fn is_upgrade(headers: &HeaderMap) -> bool {
    // Without `Connection: upgrade` it is a broken one, for the desk to refuse as it would at the door.
    let has_token = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    has_token(UPGRADE, "websocket")
}

async fn admit(shared: &Shared, mut request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0);
    let (answer, decision) = oneshot::channel();
    let request_id = request.extensions().get::<RequestId>();
    let order = ToDesk::Admit {
        head: write_head(&request),
        peer,
        request_id: request_id.map_or_else(String::new, |id| id.0.clone()),
        answer,
    };
    if shared.desk.try_send(order).is_err() {
        return DESK_BUSY.into_response();
    }
    match timeout(ADMIT_DEADLINE, decision).await {
        Ok(Ok(AdmitAnswer::Accept { accept, ticket })) => {
            let Ok(accept) = HeaderValue::from_str(&accept) else {
                return of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response();
            };
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(hand_over(shared.desk.clone(), upgrade, ticket));
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            response
        }
        Ok(Ok(AdmitAnswer::Refuse {
            status,
            headers,
            body,
        })) => refuse(status, headers, body),
        Ok(Err(_)) | Err(_) => DESK_BUSY.into_response(),
    }
}

/// The desk's refusal as the desk itself would write it.
fn refuse(status: u16, lines: Vec<(&'static str, String)>, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut connection = "close";
    for (name, value) in lines {
        let name = name.to_ascii_lowercase();
        if name == "upgrade" {
            // RFC 9110 section 7.8: an Upgrade is listed in Connection.
            connection = "close, Upgrade";
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static(connection));
    tracing::debug!(code = code(status), "an upgrade was refused");
    response
}

/// The request's head as the client sent it, but for the case of names: hyper has them in lower case.
fn write_head<B>(request: &axum::http::Request<B>) -> Vec<u8> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut head =
        format!("{} {target} {:?}\r\n", request.method(), request.version()).into_bytes();
    for (name, value) in request.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Once the 101 is written, the connection leaves axum for good.
async fn hand_over(desk: crate::bus::command::DeskSender, upgrade: OnUpgrade, ticket: u64) {
    let connection = match timeout(UPGRADE_DEADLINE, upgrade).await {
        Ok(Ok(upgraded)) => established(upgraded),
        // The client went away first; the desk forgets tickets that nobody brings.
        Ok(Err(_)) | Err(_) => return,
    };
    let Some(connection) = connection else {
        tracing::error!("an upgraded connection could not be handed over");
        return;
    };
    let order = ToDesk::Admitted {
        ticket,
        connection: Box::new(connection),
    };
    if desk.send(order).await.is_err() {
        tracing::error!("the front desk has ended; an upgraded connection is closed");
    }
}

fn established(upgraded: Upgraded) -> Option<Established> {
    let parts = upgraded.downcast::<TokioIo<StrictHeads<Stream>>>().ok()?;
    let (stream, held) = parts.io.into_inner().into_parts();
    let mut established = stream.into_established().ok()?;
    // In the order of arrival: what hyper had read past the request, what was held back, what the stream has.
    let early = parts.read_buf.iter().copied().chain(held);
    established.plaintext.splice(..0, early);
    Some(established)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_for_the_desk_is_the_client_s() {
        let request = axum::http::Request::builder()
            .uri("/media-stream/CA1?token=x%20y")
            .header("host", "a.example")
            .header("upgrade", "WebSocket")
            .header("connection", "keep-alive, Upgrade")
            .header("x-twilio-signature", "abc=")
            .body(())
            .expect("a request");
        assert!(is_upgrade(request.headers()));
        let head = String::from_utf8(write_head(&request)).expect("text");
        let lines: Vec<_> = head.split("\r\n").collect();
        assert_eq!(lines[0], "GET /media-stream/CA1?token=x%20y HTTP/1.1");
        assert!(lines.contains(&"x-twilio-signature: abc="));
        assert_eq!(lines.len(), 7, "four headers and the empty line");
        assert_eq!(lines[5..], ["", ""]);
    }

    #[test]
    fn another_protocol_is_no_upgrade() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        assert!(!is_upgrade(&headers));
        headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
        assert!(!is_upgrade(&headers));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert!(is_upgrade(&headers));
        headers.remove(CONNECTION);
        assert!(is_upgrade(&headers), "broken, and the desk says so");
    }
}
