//! `/health`, `/livez`, `/readyz`, `/metrics`, `/api/routes`, and a live call's turns: how the daemon is, for people and for
//! probes.

use super::Shared;
use super::error::ApiError;
use super::router::ROUTES;
use crate::base::id::CallId;
use crate::base::route::STREAM_ALIASES;
use crate::bus::command::{CallTurns, ToWorker};
use crate::bus::load::{Load, Overload};
use crate::config::url::{is_loopback_host, split_port};
use crate::telemetry::{latency, name};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Prometheus' text format, as its own clients name it.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Live calls in one answer.
const LISTED_MAX: usize = 100;
/// How long the workers have to say what they know of a call: they look at their orders at every wake-up.
const TURNS_DEADLINE: Duration = Duration::from_secs(1);
/// What proxies add: a request that has been forwarded is not from this machine, whatever its Host says.
const FORWARDING: [&str; 4] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Everything at a glance; 200 as long as the process answers.
/// From this machine it lists the live calls.
pub async fn health(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Json<Value> {
    let mut report = report(&shared);
    if is_local(&shared, &headers) {
        report["calls"] = live_calls(&shared);
    }
    Json(report)
}

/// The same on the admin listener, which is for those who may see it all.
pub async fn health_for_admin(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let mut report = report(&shared);
    report["calls"] = live_calls(&shared);
    Json(report)
}

fn live_calls(shared: &Shared) -> Value {
    let calls = shared.calls.live(LISTED_MAX).into_iter();
    let listed = calls.map(|(id, call)| {
        json!({
            "callId": id,
            "mode": call.mode,
            "sinceUnixMs": call.since_unix_ms,
            "streamSid": call.stream_sid,
            "callSid": call.call_sid,
            "parameters": call.parameters.into_iter().collect::<BTreeMap<_, _>>(),
        })
    });
    listed.collect()
}

/// Asked by a loopback name of a loopback listener, and not through a proxy or tunnel that makes the whole world look
/// local.
fn is_local(shared: &Shared, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let is_local_name = host
        .and_then(|host| split_port(host).ok())
        .is_some_and(|(host, _)| is_loopback_host(host));
    let is_forwarded = FORWARDING.iter().any(|name| headers.contains_key(*name));
    shared.config.listen.is_loopback() && is_local_name && !is_forwarded
}

/// `/health`'s body.
pub fn report(shared: &Shared) -> Value {
    let last = shared.calls.last_ended();
    json!({
        "status": if shared.is_draining() { "draining" } else { "ok" },
        "version": crate::VERSION,
        "commit": crate::COMMIT,
        "uptime": shared.uptime().as_secs(),
        "activeCalls": shared.active_calls(),
        "maxCalls": shared.config.relay.calls_max,
        "endedCalls": shared.calls.ended(),
        "lastEnded": last.map(|last| json!({
            "callId": last.call_id.as_str(),
            "reason": last.reason,
            "atUnixMs": last.at_unix_ms,
        })),
        "workers": shared.workers.len(),
        "load": shared.workers.iter().map(|worker| load(worker.load())).collect::<Value>(),
        "model": if shared.config.realtime.simulated { "simulated" } else { "real" },
    })
}

/// One worker's last second.
fn load(load: Load) -> Value {
    json!({
        "activeCalls": load.live,
        "busy": f64::from(load.busy_permille) / 1_000.0,
        "lagMs": f64::from(load.lag_us) / 1_000.0,
        "refuses": load.overload.map(Overload::label),
    })
}

/// The process answers.
pub async fn livez() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// New calls are welcome: 503 while draining, or when the desk is gone.
pub async fn readyz(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let message = if shared.is_draining() {
        "Draining: no new calls."
    } else if shared.desk.is_closed() {
        "The front desk has ended."
    } else {
        return Ok(Json(json!({"status": "ready"})));
    };
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message))
}

/// The metrics, on the admin listener.
pub async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = shared.prometheus.render();
    latency::render(name::LATENCIES, &mut text);
    ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

/// The metrics, on the main listener: only where that is on loopback, asked by a loopback name, and not through a
/// proxy or tunnel that makes the whole world look local.
pub async fn metrics_if_local(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if !is_local(&shared, &headers) {
        return Err(super::error::of_status(StatusCode::NOT_FOUND));
    }
    Ok(metrics(State(shared)).await)
}

/// Where the time of a live call's latest turns went, for this machine as the metrics are.
pub async fn turns_if_local(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    id: Path<String>,
) -> Result<Json<Value>, ApiError> {
    if !is_local(&shared, &headers) {
        return Err(super::error::of_status(StatusCode::NOT_FOUND));
    }
    turns(State(shared), id).await
}

/// The same on the admin listener.
pub async fn turns(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unknown = ApiError::new(StatusCode::NOT_FOUND, "No such call lives.");
    let Some(call_id) = CallId::new(&id) else {
        return Err(unknown);
    };
    let mut is_certain = true;
    let mut asked = Vec::new();
    for worker in &shared.workers {
        let (answer, answered) = oneshot::channel();
        match worker.send(ToWorker::Turns { call_id, answer }) {
            Ok(()) => asked.push(answered),
            Err(_) => is_certain = false,
        }
    }
    let until = Instant::now() + TURNS_DEADLINE;
    for answered in asked {
        // Past the deadline this still takes what is there.
        match timeout_at(until, answered).await {
            Ok(Ok(Some(call))) => return Ok(Json(shown(call_id, &call))),
            Ok(Ok(None)) => {}
            Ok(Err(_)) | Err(_) => is_certain = false,
        }
    }
    Err(match is_certain {
        true => unknown,
        false => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "A worker that may have this call does not answer.",
        ),
    })
}

fn shown(call_id: CallId, call: &CallTurns) -> Value {
    let ms = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
    let turns = call.turns.iter().map(|turn| {
        let ago = call.at.mono.since(turn.stopped).as_millis() as u64;
        json!({
            "stoppedUnixMs": call.at.unix_ms.saturating_sub(ago),
            "createdMs": ms(turn.created),
            "firstDeltaMs": ms(turn.first_delta),
            "firstByteMs": ms(turn.first_byte),
            "firstMarkMs": ms(turn.first_mark),
        })
    });
    json!({"callId": call_id.as_str(), "turns": turns.collect::<Vec<_>>()})
}

/// The route table.
pub async fn routes(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let streams = STREAM_ALIASES.iter().map(|alias| {
        json!({"methods": ["GET", "POST"], "path": alias.pattern, "kind": "stream",
               "mode": format!("{:?}", alias.mode).to_ascii_lowercase()})
    });
    let http = ROUTES.iter().map(|route| {
        json!({"methods": route.methods, "path": route.path, "kind": "http", "does": route.does})
    });
    Json(json!({
        "routes": http.chain(streams).collect::<Vec<_>>(),
        "admin": shared.config.listen.admin.map(|admin| admin.to_string()),
    }))
}
