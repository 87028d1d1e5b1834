//! The router: the one table of control's own paths, and what every request goes through.
//!
//! Around each handler: a panic becomes 500, a request that takes too long 408, errors get their one JSON shape, every
//! answer gets the request's id, a line in the log (target `http`) and a count.

use super::Shared;
use super::error::{ApiError, of_status};
use super::{after_stream, status, stream, webhook};
use crate::base::route::STREAM_ALIASES;
use crate::proto::http::head::HeadError;
use crate::telemetry::http_meter;
use crate::telemetry::log::HTTP;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{ALLOW, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;

/// From the head to the answer. A carrier waits 15 s for its webhook in all.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// An id from outside is echoed up to this many characters.
const REQUEST_ID_CHARS_MAX: usize = 64;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The peer of a request's connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<SocketAddr>);

/// A request that stands for one whose head was refused.
#[derive(Clone, Copy, Debug)]
pub struct BadHead(pub HeadError);

/// The id of a request, for those who answer beside `finish`.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// One of control's own paths. (Stream paths stand in `base::route`.)
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// What it takes; GET includes HEAD.
    pub methods: &'static [&'static str],
    /// As axum writes it.
    pub path: &'static str,
    /// For people.
    pub does: &'static str,
    serve: Serve,
}

#[derive(Clone, Copy, Debug)]
enum Serve {
    Health,
    Livez,
    Readyz,
    Metrics,
    Routes,
    Turns,
    Voice,
    VoiceSimple,
    AfterStream,
}

const fn route(
    methods: &'static [&'static str],
    path: &'static str,
    serve: Serve,
    does: &'static str,
) -> Route {
    Route {
        methods,
        path,
        does,
        serve,
    }
}

const READ: &[&str] = &["GET"];
const WEBHOOK: &[&str] = &["GET", "POST"];

const TURNS: &str = "/api/calls/{callId}/turns";

/// Every path of control's own.
pub const ROUTES: &[Route] = &[
    route(READ, "/health", Serve::Health, "status, version, calls"),
    route(READ, "/livez", Serve::Livez, "the process answers"),
    route(READ, "/readyz", Serve::Readyz, "new calls are welcome"),
    route(
        READ,
        "/metrics",
        Serve::Metrics,
        "Prometheus metrics, from this machine only",
    ),
    route(READ, "/api/routes", Serve::Routes, "this table"),
    route(
        READ,
        TURNS,
        Serve::Turns,
        "where the time of a live call's latest turns went, for this machine only",
    ),
    route(WEBHOOK, "/api/twilio/voice", Serve::Voice, "voice webhook"),
    route(
        WEBHOOK,
        "/api/twilio/incoming",
        Serve::Voice,
        "voice webhook, an older name",
    ),
    route(
        WEBHOOK,
        "/twilio/incoming-call",
        Serve::Voice,
        "voice webhook, an older name",
    ),
    route(
        WEBHOOK,
        "/api/twilio/incoming-call",
        Serve::VoiceSimple,
        "voice webhook of the simple mode",
    ),
    route(
        WEBHOOK,
        after_stream::PATH,
        Serve::AfterStream,
        "what follows a call's stream",
    ),
];

/// Everything, for the main listener.
pub fn main(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, serve(route.serve));
    }
    for alias in STREAM_ALIASES {
        router = router.route(alias.pattern, get(stream::get).post(stream::post));
    }
    wrap(router.fallback(stream::fallback), shared, REQUEST_DEADLINE)
}

/// Health, metrics and turns only, for the admin listener.
pub fn admin(shared: Arc<Shared>) -> Router {
    let router = Router::new()
        .route("/health", get(status::health_for_admin))
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/api/routes", get(status::routes))
        .route(TURNS, get(status::turns))
        .fallback(async || of_status(StatusCode::NOT_FOUND));
    wrap(router, shared, REQUEST_DEADLINE)
}

fn serve(serve: Serve) -> MethodRouter<Arc<Shared>> {
    // A caller is on the line of a webhook: even a panic is answered with words.
    let spoken = CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| {
        log_panic(panic.as_ref());
        webhook::apology()
    });
    match serve {
        Serve::Health => get(status::health),
        Serve::Livez => get(status::livez),
        Serve::Readyz => get(status::readyz),
        Serve::Metrics => get(status::metrics_if_local),
        Serve::Routes => get(status::routes),
        Serve::Turns => get(status::turns_if_local),
        Serve::Voice => get(webhook::voice).post(webhook::voice).layer(spoken),
        Serve::VoiceSimple => get(webhook::voice_simple)
            .post(webhook::voice_simple)
            .layer(spoken),
        Serve::AfterStream => get(after_stream::next)
            .post(after_stream::next)
            .layer(spoken),
    }
}

fn wrap(router: Router<Arc<Shared>>, shared: Arc<Shared>, deadline: Duration) -> Router {
    let finish = {
        let shared = shared.clone();
        from_fn(move |request, next| finish(shared.clone(), deadline, request, next))
    };
    router
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| {
            log_panic(panic.as_ref());
            of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }))
        .layer(finish)
        .with_state(shared)
}

fn log_panic(panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("unknown"),
        "a request handler panicked"
    );
}

/// The outermost layer.
async fn finish(
    shared: Arc<Shared>,
    deadline: Duration,
    mut request: Request,
    next: Next,
) -> Response {
    let id = request_id(&shared, &request);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let begun = shared.now().mono;
    let bad = request.extensions().get::<BadHead>().copied();
    let answering = async move {
        match bad {
            Some(BadHead(error)) => ApiError::of_head(error).into_response(),
            None => next.run(request).await,
        }
    };
    let mut response = match tokio::time::timeout(deadline, answering).await {
        Ok(response) => response,
        Err(_) => {
            // The body may still be coming: the connection can't be used again.
            const LATE: ApiError = ApiError {
                status: StatusCode::REQUEST_TIMEOUT,
                message: "The request took too long.",
                headers: &[("connection", "close")],
            };
            LATE.into_response()
        }
    };
    let error = response.extensions_mut().remove::<ApiError>();
    let error = error.or_else(|| {
        // Axum's own 405 comes bare but for Allow.
        (response.status() == StatusCode::METHOD_NOT_ALLOWED).then(|| of_status(response.status()))
    });
    if let Some(error) = error {
        let allow = response.headers_mut().remove(ALLOW);
        response = error.into_json(&id);
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
        if method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
    }
    let status = response.status().as_u16();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let micros = shared.now().mono.since(begun).as_micros() as u64;
    tracing::info!(target: HTTP, id, method = label(&method), route, status, micros, "request");
    http_meter::request(route, label(&method), status);
    response
}

/// The client's own id where it is a plain word, else a new one.
fn request_id(shared: &Shared, request: &Request) -> String {
    let is_plain = |id: &&str| {
        (1..=REQUEST_ID_CHARS_MAX).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    given
        .filter(is_plain)
        .map_or_else(|| shared.next_request_id(), str::to_owned)
}

/// A bounded metric label: anybody can invent methods.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::shared;
    use axum::body::to_bytes;
    use axum::http::Request as HttpRequest;
    use tower::ServiceExt as _;

    async fn ask(router: Router, path: &str) -> (StatusCode, serde_json::Value, Response<()>) {
        let request = HttpRequest::get(path)
            .header("host", "localhost")
            .body(Body::empty())
            .expect("a request");
        let response = router.oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.expect("short");
        let json = serde_json::from_slice(&body).unwrap_or_default();
        (parts.status, json, Response::from_parts(parts, ()))
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_a_500_of_the_one_shape() {
        let boom = get(async || -> &'static str { panic!("planted") });
        let router = wrap(
            Router::new().route("/boom", boom),
            shared(),
            REQUEST_DEADLINE,
        );
        let (status, json, response) = ask(router, "/boom").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(json["error"]["code"], "internal");
        let id = response.headers()["x-request-id"].to_str().expect("text");
        assert_eq!(json["error"]["requestId"], id);
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_a_408_and_the_end_of_the_connection() {
        let never = get(async || std::future::pending::<&'static str>().await);
        let router = wrap(
            Router::new().route("/never", never),
            shared(),
            Duration::ZERO,
        );
        let (status, json, response) = ask(router, "/never").await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(json["error"]["code"], "timeout");
        assert_eq!(response.headers()["connection"], "close");
    }

    #[tokio::test]
    async fn every_path_of_the_table_is_served_and_no_stream_path_collides() {
        // Axum panics on a path that is there twice or overlaps; the table is what is served.
        let router = main(shared());
        for route in ROUTES {
            let path = route.path.replace(['{', '}'], "");
            let (status, json, _) = ask(router.clone(), &path).await;
            // A call of which nobody knows is not found, but its path is.
            let unknown = of_status(StatusCode::NOT_FOUND).message;
            let is_served = status != StatusCode::NOT_FOUND || json["error"]["message"] != unknown;
            assert!(is_served, "{}", route.path);
        }
    }
}
