//! Where the model is: an endpoint's URL taken apart, with the model put into its query.
//!
//! Core; the configuration checks with it and the desk dials by it. What the upgrade request carries
//! beside the target is in `headers`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The path where the URL names none.
pub const DEFAULT_PATH: &str = "/v1/realtime";

/// RFC 3986 section 2.3: what never needs encoding.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where to connect and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `wss`: TLS.
    pub tls: bool,
    /// A name or an address as DNS and TLS want it: an IPv6 address without brackets.
    pub host: String,
    /// As given, else 443 or 80.
    pub port: u16,
    /// Path and query of the upgrade request.
    pub target: String,
}

impl Endpoint {
    /// The `Host` header: IPv6 in brackets, the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            Cow::Owned(format!("[{}]", self.host))
        } else {
            Cow::Borrowed(self.host.as_str())
        };
        if self.port == default_port(self.tls) {
            host.into_owned()
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

/// Why a URL is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointError {
    /// Neither `wss://` nor `ws://`.
    Scheme,
    /// A user or a password in front of the host: keys travel in a header.
    UserInfo,
    /// No host, or one that can't be.
    Host,
    /// Not 1 to 65535.
    Port,
    /// A fragment, white space, a control character or raw non-ASCII in the path or query.
    Target,
    /// No model, and none in the URL's query either.
    Model,
    /// The temperature is no number.
    Temperature,
}

impl EndpointError {
    /// What is wrong and what to write instead.
    pub fn message(self) -> &'static str {
        match self {
            Self::Scheme => "must begin with wss:// (or ws:// for tests)",
            Self::UserInfo => "must not hold a user or password; the key goes into api_keys",
            Self::Host => "has no valid host",
            Self::Port => "has no valid port; write 1 to 65535",
            Self::Target => {
                "has a fragment, a space or raw non-ASCII in its path or query; percent-encode it"
            }
            Self::Model => "names no model, and realtime.model is empty; set one of them",
            Self::Temperature => "temperature is not a finite number",
        }
    }
}

impl std::fmt::Display for EndpointError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for EndpointError {}

/// Takes `base` (`wss://host[:port][/path][?query]`) apart and adds `model` to its query, in place of one
/// that stands there, and `temperature` likewise when given (0 is a value). An empty `model` leaves the
/// query's own `model`, `deployment`, `call_id` or `intent`, one of which must then be there.
pub fn connect_url(
    base: &str,
    model: &str,
    temperature: Option<f64>,
) -> Result<Endpoint, EndpointError> {
    let (scheme, rest) = base.split_once("://").ok_or(EndpointError::Scheme)?;
    let tls = if scheme.eq_ignore_ascii_case("wss") {
        true
    } else if scheme.eq_ignore_ascii_case("ws") {
        false
    } else {
        return Err(EndpointError::Scheme);
    };
    let (authority, target) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (host, port) = split_authority(authority)?;
    if !target
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    {
        return Err(EndpointError::Target);
    }
    if temperature.is_some_and(|value| !value.is_finite()) {
        return Err(EndpointError::Temperature);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if matches!(path, "" | "/") {
        DEFAULT_PATH
    } else {
        path
    };

    let is = |pair: &str, name: &str| {
        let key = pair.split('=').next().unwrap_or_default();
        percent_decode_str(key).eq(name.bytes())
    };
    let mut pairs: Vec<Cow<'_, str>> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter(|pair| model.is_empty() || !is(pair, "model"))
        .filter(|pair| temperature.is_none() || !is(pair, "temperature"))
        .map(Cow::Borrowed)
        .collect();
    if model.is_empty() {
        let names = ["model", "deployment", "call_id", "intent"];
        if !pairs
            .iter()
            .any(|pair| names.iter().any(|name| is(pair, name)))
        {
            return Err(EndpointError::Model);
        }
    } else {
        let value = utf8_percent_encode(model, QUERY_VALUE);
        pairs.push(Cow::Owned(format!("model={value}")));
    }
    if let Some(value) = temperature {
        pairs.push(Cow::Owned(format!("temperature={value}")));
    }
    Ok(Endpoint {
        tls,
        host,
        port: port.unwrap_or(default_port(tls)),
        target: format!("{path}?{}", pairs.join("&")),
    })
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn split_authority(authority: &str) -> Result<(String, Option<u16>), EndpointError> {
    if authority.contains('@') {
        return Err(EndpointError::UserInfo);
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| EndpointError::Host)?;
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return Err(EndpointError::Host),
            port => port,
        };
        (address.to_string(), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        // RFC 1123 section 2.1, plus the underscore of private zones.
        let is_host = (1..=253).contains(&host.len())
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !is_host {
            return Err(EndpointError::Host);
        }
        (host.to_ascii_lowercase(), port)
    };
    let port = match port {
        None => None,
        // A sign would pass `parse`.
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => match text.parse() {
            Ok(0) | Err(_) => return Err(EndpointError::Port),
            Ok(port) => Some(port),
        },
        Some(_) => return Err(EndpointError::Port),
    };
    Ok((host, port))
}

/// The headers of the upgrade request beside the protocol's own: the key and our name. Never
/// `OpenAI-Beta`: it selects a protocol that is switched off, and the session is closed with 4000.
///
/// `None` when the key is empty or holds what a header can't carry.
pub fn headers(api_key: &str) -> Option<[(&'static str, String); 2]> {
    let is_token = !api_key.is_empty() && api_key.bytes().all(|byte| byte.is_ascii_graphic());
    is_token.then(|| {
        [
            ("Authorization", format!("Bearer {api_key}")),
            (
                "User-Agent",
                concat!("voxrelay/", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(base: &str, model: &str, temperature: Option<f64>) -> Endpoint {
        connect_url(base, model, temperature).unwrap_or_else(|error| panic!("{base}: {error}"))
    }

    #[test]
    fn the_vendor_url_gets_the_model() {
        let found = endpoint("wss://api.openai.com/v1/realtime", "gpt-realtime", None);
        assert_eq!(
            found,
            Endpoint {
                tls: true,
                host: "api.openai.com".into(),
                port: 443,
                target: "/v1/realtime?model=gpt-realtime".into(),
            }
        );
        assert_eq!(found.authority(), "api.openai.com");
    }

    #[test]
    fn targets_are_completed() {
        for (base, model, temperature, target) in [
            ("wss://h", "m", None, "/v1/realtime?model=m"),
            ("wss://h/", "m", None, "/v1/realtime?model=m"),
            ("wss://h?a=b", "m", None, "/v1/realtime?a=b&model=m"),
            ("wss://h/x/y/", "m", None, "/x/y/?model=m"),
            ("wss://h/x?a=%20&b", "m", None, "/x?a=%20&b&model=m"),
            ("wss://h/x?model=old&a=1", "new", None, "/x?a=1&model=new"),
            ("wss://h/x?mode%6C=old", "new", None, "/x?model=new"),
            ("wss://h/x?models=1", "m", None, "/x?models=1&model=m"),
            ("wss://h/x?", "m", None, "/x?model=m"),
            ("wss://h/x?model=kept", "", None, "/x?model=kept"),
            ("wss://h/x?deployment=d", "", None, "/x?deployment=d"),
            (
                "wss://h",
                "a b&c=é/1",
                None,
                "/v1/realtime?model=a%20b%26c%3D%C3%A9%2F1",
            ),
            (
                "wss://h",
                "m",
                Some(0.8),
                "/v1/realtime?model=m&temperature=0.8",
            ),
            (
                "wss://h",
                "m",
                Some(0.0),
                "/v1/realtime?model=m&temperature=0",
            ),
            (
                "wss://h/x?temperature=1",
                "m",
                Some(0.5),
                "/x?model=m&temperature=0.5",
            ),
            (
                "wss://h/x?temperature=1",
                "m",
                None,
                "/x?temperature=1&model=m",
            ),
        ] {
            assert_eq!(endpoint(base, model, temperature).target, target, "{base}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        for (base, tls, host, port, authority) in [
            (
                "ws://LOCALHOST:8080",
                false,
                "localhost",
                8080,
                "localhost:8080",
            ),
            ("ws://127.0.0.1", false, "127.0.0.1", 80, "127.0.0.1"),
            ("WSS://h:443", true, "h", 443, "h"),
            ("ws://h:443", false, "h", 443, "h:443"),
            ("wss://[::1]", true, "::1", 443, "[::1]"),
            ("ws://[::1]:9000/p", false, "::1", 9000, "[::1]:9000"),
            (
                "wss://[2001:db8:0::1]:443",
                true,
                "2001:db8::1",
                443,
                "[2001:db8::1]",
            ),
        ] {
            let found = endpoint(base, "m", None);
            assert_eq!(
                (found.tls, &*found.host, found.port),
                (tls, host, port),
                "{base}"
            );
            assert_eq!(found.authority(), authority, "{base}");
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (base, error) in [
            ("", EndpointError::Scheme),
            ("api.openai.com", EndpointError::Scheme),
            ("https://h", EndpointError::Scheme),
            ("wss:/h", EndpointError::Scheme),
            ("wss://", EndpointError::Host),
            ("wss:///x", EndpointError::Host),
            ("wss://h h", EndpointError::Host),
            ("wss://h\r\nx", EndpointError::Host),
            ("wss://[::1", EndpointError::Host),
            ("wss://[::1]x", EndpointError::Host),
            ("wss://[h]", EndpointError::Host),
            ("wss://::1", EndpointError::Host),
            ("wss://user:pw@h", EndpointError::UserInfo),
            ("wss://h:", EndpointError::Port),
            ("wss://h:0", EndpointError::Port),
            ("wss://h:65536", EndpointError::Port),
            ("wss://h:+80", EndpointError::Port),
            ("wss://[::1]:", EndpointError::Port),
            ("wss://h/a b", EndpointError::Target),
            ("wss://h/a\r\nX: y", EndpointError::Target),
            ("wss://h/é", EndpointError::Target),
            ("wss://h/x#y", EndpointError::Target),
        ] {
            assert_eq!(connect_url(base, "m", None), Err(error), "{base}");
        }
        assert_eq!(connect_url("wss://h", "", None), Err(EndpointError::Model));
        assert_eq!(
            connect_url("wss://h", "m", Some(f64::NAN)),
            Err(EndpointError::Temperature)
        );
    }

    #[test]
    fn headers_carry_the_key_and_nothing_smuggled() {
        let [key, agent] = headers("sk-1").expect("a plain key");
        assert_eq!(key, ("Authorization", "Bearer sk-1".to_owned()));
        assert_eq!(agent.0, "User-Agent");
        for bad in ["", "a b", "a\r\nX: y", "é"] {
            assert_eq!(headers(bad), None);
        }
    }
}
