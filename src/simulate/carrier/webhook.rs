//! The carrier's voice webhook: asks for TwiML and finds the stream in it. Shell (tokio).

use super::sign::signed_form;
use crate::base::rng::Rng;
use crate::proto::http::head::{Parsed, parse_response};
use crate::simulate::carrier::client::Target;
use crate::simulate::dice::Dice as _;
use crate::simulate::link::read_head;
use crate::transport::stream::Stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::events::Event;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a webhook answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The call that was announced.
    pub call_sid: String,
    /// `<Stream url>`.
    pub stream_url: String,
    /// `<Parameter>`s.
    pub parameters: Vec<(String, String)>,
}

/// A webhook must answer within this (the vendor's limit).
const DEADLINE: Duration = Duration::from_secs(15);
/// More TwiML than this is refused (the vendor's limit is 64 KB).
const BODY_MAX: u64 = 64 * 1024;

/// Announces a call to `url` (`http://` only: this is for one's own machine) and reads the answer.
pub async fn ask(url: &str, auth_token: Option<&str>, seed: u64) -> Result<Asked, String> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| format!("{url}: must begin with http://"))?;
    let target = Target::parse(&format!("ws://{rest}"))?;
    let mut rng = Rng::from_u64(seed);
    // The same draws as the call itself makes later are of no matter: the SID is handed over.
    let call_sid = rng.sid("CA");
    let account_sid = rng.sid("AC");
    let request = request(&target, url, auth_token, &call_sid, &account_sid);
    let exchange = async {
        let mut stream = Stream::connect((target.host.as_str(), target.port), None).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut bytes = Vec::new();
        let head = read_head(&mut stream, &mut bytes, |bytes| {
            match parse_response(bytes) {
                Ok(Parsed::Complete { head, len }) => Some(Some((head.status, len))),
                Ok(Parsed::Partial) => Some(None),
                Err(_) => None,
            }
        })
        .await;
        let mut rest = stream.take(BODY_MAX);
        // A server that closes without close_notify still gave its answer.
        let _ = rest.read_to_end(&mut bytes).await;
        Ok::<_, std::io::Error>((head, bytes))
    };
    let (head, bytes) = tokio::time::timeout(DEADLINE, exchange)
        .await
        .map_err(|_| format!("{url}: no answer in 15 s (11205)"))?
        .map_err(|error| format!("{url}: {error} (11205)"))?;
    let twiml = match head {
        Some((200, len)) => String::from_utf8_lossy(&bytes[len..]).into_owned(),
        Some((status, _)) => return Err(format!("{url}: answered {status} (11200)")),
        None => return Err(format!("{url}: no HTTP answer (11200)")),
    };
    let (stream_url, parameters) = find_stream(&twiml)
        .ok_or_else(|| format!("{url}: no <Connect><Stream url> in the answer"))?;
    Ok(Asked {
        call_sid,
        stream_url,
        parameters,
    })
}

/// The request that announces a call, with its body; one to a connection.
pub fn request(
    target: &Target,
    url: &str,
    auth_token: Option<&str>,
    call_sid: &str,
    account_sid: &str,
) -> String {
    let form = [
        ("AccountSid", account_sid),
        ("CallSid", call_sid),
        ("CallStatus", "ringing"),
        ("Direction", "inbound"),
        ("From", "+14155550100"),
        ("To", "+14155550199"),
        ("ApiVersion", "2010-04-01"),
    ];
    let body: Vec<String> = form
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    let body = body.join("&");
    let signature = match auth_token {
        Some(token) => format!("X-Twilio-Signature: {}\r\n", signed_form(token, url, &form)),
        None => String::new(),
    };
    format!(
        "POST {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: TwilioProxy/1.1\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\nContent-Length: {}\r\n{signature}\r\n{body}",
        target.path,
        target.host,
        target.port,
        body.len()
    )
}

/// The URL and parameters of the first `<Stream>` of a TwiML document.
pub fn find_stream(twiml: &str) -> Option<(String, Vec<(String, String)>)> {
    let mut reader = Reader::from_str(twiml);
    let mut url = None;
    let mut parameters = Vec::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) | Event::Empty(tag) => {
                let attribute = |name: &str| {
                    let found = tag.try_get_attribute(name).ok()??;
                    quick_xml::escape::unescape(&found.value)
                        .ok()
                        .map(String::from)
                };
                match tag.name().as_ref() {
                    "Stream" if url.is_none() => url = Some(attribute("url")?),
                    "Parameter" => parameters.push((attribute("name")?, attribute("value")?)),
                    _ => {}
                }
            }
            Event::Eof => return url.map(|url| (url, parameters)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::find_stream;

    #[test]
    fn the_stream_and_its_parameters_are_found() {
        let twiml = "<?xml version=\"1.0\"?><Response><Connect><Stream url=\"wss://x/a?b&amp;c\">\
                     <Parameter name=\"ticket\" value=\"1&lt;2\"/></Stream></Connect></Response>";
        assert_eq!(
            find_stream(twiml),
            Some((
                "wss://x/a?b&c".into(),
                vec![("ticket".into(), "1<2".into())]
            ))
        );
        assert_eq!(find_stream("<Response><Hangup/></Response>"), None);
        assert_eq!(find_stream("<Response><Stream>"), None);
    }
}
