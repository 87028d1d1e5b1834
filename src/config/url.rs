//! Origins and hosts: the public address, and what a `Host` header may say. Strict: what is not plainly right is
//! refused, with the reason. (The model's endpoint is `proto::realtime::endpoint`'s.)

use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::net::IpAddr;

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Lower case: http, https, ws or wss.
    pub scheme: String,
    /// A name or an address, lower case; an IPv6 address keeps its brackets.
    pub host: String,
    /// Where one is written.
    pub port: Option<u16>,
    /// From the first `/` on, with the query; empty when there is none.
    pub target: String,
}

impl Url {
    /// Takes a URL apart. No user, no fragment, no blanks; `Err` says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it holds a blank or a character that must be percent-encoded");
        }
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "ws" | "wss") {
            return Err("its scheme is none of http, https, ws, wss");
        }
        if rest.contains('#') {
            return Err("it has a fragment");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it holds a user name");
        }
        let (host, port) = split_port(authority)?;
        if !is_host(host) {
            return Err("its host is not a name or an address");
        }
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
            target: target.to_owned(),
        })
    }

    /// `scheme://host[:port]`.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority())
    }

    /// `host[:port]`.
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }
}

/// Splits `host[:port]`, with an IPv6 address in brackets.
pub fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let after = match authority.strip_prefix('[') {
        Some(rest) => 1 + rest.find(']').ok_or("its host has an open bracket")? + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(after);
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| "its port is not a number")?)
        }
        _ => return Err("its port is not a number"),
    };
    Ok((host, port))
}

/// Whether this can be a host: an address, or a name of letters, digits, `-`, `_` and dots.
pub fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    !host.is_empty()
        && host.len() <= 253
        && !host.starts_with('.')
        && !host.contains("..")
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether a host (without port) can only be this machine: `localhost`, names under it, loopback addresses.
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Parts of a query parameter's name that make its value a secret. Rather too many than too few.
const SECRET_WORDS: [&str; 8] = [
    "key", "token", "secret", "pass", "pwd", "sig", "auth", "cred",
];

/// A URL as people and logs may see it: whoever is named in front of the host, and the values of parameters whose
/// names sound like secrets, are `***`. Takes any text, for what is shown may be wrong as well, and hides too much
/// rather than too little: all before the last `@` is taken for a user.
pub fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + 3),
        None => ("", url),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("***@", rest),
        None => ("", rest),
    };
    let (path, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let mut shown = format!("{scheme}{user}{}", redacted_pair(path));
    for (n, pair) in query.split('&').enumerate() {
        if n > 0 {
            shown.push('&');
        }
        shown.push_str(&redacted_pair(pair));
    }
    shown
}

/// `name=***` where a name sounds like a secret. Whatever stands before any `=` is a name: other separators than `&`
/// are in use.
fn redacted_pair(pair: &str) -> Cow<'_, str> {
    let Some((names, _)) = pair.rsplit_once('=') else {
        return Cow::Borrowed(pair);
    };
    let names = percent_decode_str(names)
        .decode_utf8_lossy()
        .to_ascii_lowercase();
    match pair.split_once('=') {
        Some((first, _)) if SECRET_WORDS.iter().any(|word| names.contains(word)) => {
            Cow::Owned(format!("{first}=***"))
        }
        _ => Cow::Borrowed(pair),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_a_url_are_not_shown() {
        for (url, shown) in [
            (
                "wss://api.openai.com/v1/realtime?model=gpt-realtime",
                "wss://api.openai.com/v1/realtime?model=gpt-realtime",
            ),
            ("wss://h/x?api_key=hunter2", "wss://h/x?api_key=***"),
            (
                "wss://h/x?a=1&API-Key=hunter2&b=2",
                "wss://h/x?a=1&API-Key=***&b=2",
            ),
            ("wss://h/x?api%5Fk%65y=hunter2", "wss://h/x?api%5Fk%65y=***"),
            ("wss://h?token=a=hunter2", "wss://h?token=***"),
            ("wss://h?a=1;token=hunter2", "wss://h?a=***"),
            ("wss://h?sig=x?hunter2#hunter2", "wss://h?sig=***"),
            ("wss://h#access_token=hunter2", "wss://h#access_token=***"),
            (
                "wss://h/x;password=hunter2?y=z",
                "wss://h/x;password=***?y=z",
            ),
            ("wss://user:hunter2@h:1/x", "wss://***@h:1/x"),
            ("wss://user:hun/ter2?hunter2@h", "wss://***@h"),
            ("https://a:hunter2@b@h", "https://***@h"),
            ("user:hunter2@h", "***@h"),
            ("", ""),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn a_url_comes_apart() {
        let url = Url::parse("WSS://API.Example.com:8443/v1/realtime?x=1").expect("valid");
        assert_eq!(url.origin(), "wss://api.example.com:8443");
        assert_eq!(url.target, "/v1/realtime?x=1");
        let url = Url::parse("ws://[::1]:9/x").expect("valid");
        assert_eq!((url.host.as_str(), url.port), ("[::1]", Some(9)));
        assert_eq!(
            Url::parse("http://a?b").map(|url| url.target),
            Ok("?b".into())
        );
    }

    #[test]
    fn what_is_not_plainly_right_is_refused() {
        for bad in [
            "",
            "api.example.com",
            "ftp://a",
            "https://",
            "https://a b",
            "https://user@a",
            "https://a#x",
            "https://a:port",
            "https://a:99999",
            "https://a:+1",
            "https://[::1",
            "https://[::1]x",
            "https://..",
            "https://ünï",
            "https://a\n",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn loopback_hosts_are_told_from_lookalikes() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.9",
            "[::1]",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "10.0.0.1",
            "",
            "[::2]",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_and_what_parses_parses_again(text in ".{0,40}", tail in "[a-z0-9:/?\\[\\].-]{0,30}") {
            let _ = Url::parse(&text);
            if let Ok(url) = Url::parse(&format!("wss://{tail}")) {
                let again = format!("{}{}", url.origin(), url.target);
                proptest::prop_assert_eq!(Url::parse(&again), Ok(url));
            }
        }
    }
}
