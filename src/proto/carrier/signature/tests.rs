//! The vendor's published vectors (helper libraries' own tests), numbered as they are collected in the
//! protocol notes, and the ones derived from them for upgrades. The key is always `12345`.

use super::*;

const KEY: &[&str] = &["12345"];
const U: &str = "https://mycompany.com/myapp.php?foo=1&bar=2";
const P: &[(&str, &str)] = &[
    ("CallSid", "CA1234567890ABCDE"),
    ("Caller", "+14158675309"),
    ("Digits", "1234"),
    ("From", "+14158675309"),
    ("To", "+18005551212"),
];
const H: &str = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620";
const H0: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
const BODY: &[u8] = br#"{"property": "value", "boolean": true}"#;

/// Number, signed URL, appended parameters, signature.
type Vector<'a> = (u32, String, &'a [(&'a str, &'a str)], &'a str);

fn params(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| (String::from(*name), String::from(*value)))
        .collect()
}

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    P.iter().chain(more).copied().collect()
}

#[test]
fn the_published_vectors() {
    let conference = with(&[("ReasonConferenceEnded", "test"), ("Reason", "Participant")]);
    #[rustfmt::skip]
    let vectors: &[Vector<'_>] = &[
        (1, U.into(), P, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        (2, U.replace(".com", ".com:443"), P, "kvajT1Ptam85bY51eRf/AJRuM3w="),
        (3, U.replace("https", "http").replace(".com", ".com:80"), P, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
        (4, U.replace("https", "http").replace(".com", ".com:1234"), P, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
        (5, format!("{U}&bodySHA256={H}"), &[], "a9nBmqA0ju/hNViExpshrM61xv4="),
        (6, format!("https://mycompany.com/myapp.php?bodySHA256={H}"), &[], "y77kIzt2vzLz71DgmJGsen2scGs="),
        (7, format!("{}&bodySHA256={H0}", U.replace(".com", ".com:443")), &[], "Ldidvp12m26NI7eqEvxnEpkd9Hc="),
        (8, U.replace("//", "//user:pass@"), P, "CukzLTc1tT5dXEDIHm/tKBanW10="),
        (9, U.replace("//", "//user:pass@").replace(".com", ".com:443"), P, "ZQFR1PTIZXF2MXB8ZnKCvnnA+rI="),
        (10, U.replace("//", "//user@"), P, "2YRLlVAflCqxaNicjMpJcSTgzSs="),
        (11, U.replace("//", "//user@").replace(".com", ".com:443"), P, "aZfj4hyX1MLZhSS6QIL18Vn2/RA="),
        (12, format!("{U}&Body=It%27s+amazing"), P, "TfZzewPq8wqrGlMfyAud8+/IvJ0="),
        (13, U.into(), &[("MessagingBinding.Address", "+1325xxxxxxx"), ("MessagingBinding.Address", "+1415xxxxxxx")], "83O6e2vORAoJHUNzJjDWN1jz+BA="),
        (14, U.into(), &[("Sid", "CA123"), ("SidAccount", "AC123"), ("Digits", "5678"), ("Digits", "1234"), ("Digits", "1234")], "IK+Dwps556ElfBT0I3Rgjkr1wJU="),
        (15, U.into(), &conference, "vOEb5UThFn24KEfnOFLQY2AE5FY="),
        (16, U.replace("https", "http"), &conference, "n2xBNyzSW7rfYStDtOFiFMv7qNo="),
        (17, U.into(), &[("property", "value"), ("boolean", "true")], "NBdBDr/T/lgjI+tlgpXjKZQZs/k="),
        (18, U.into(), &[], "zYQTYrRWXE7LtzbG4PfP7/bkkGo="),
        (19, "https://mycompany.com/myapp.php".into(), P, "1xaxFBvyzXYvWplzNOSs28HWO94="),
        (20, "https://mycompany.com/myapp.php?foo=hello%20world&bar=test%2Bvalue".into(), P, "er2tvAP1Wx+iuTTE2BPgvEaN1cs="),
        (21, U.into(), &[("Message", "Hello & goodbye! @#$%^*()"), ("From", "+1 (415) 867-5309"), ("Special", "unicode: ñáéíóú")], "dCPiR4WtQ6QFN6pJh81CtlCcWLQ="),
        (22, U.into(), &[("Digits", ""), ("CallSid", "CA1234567890ABCDE"), ("EmptyParam", "")], "9HHp/OqQMEwdrVebHDdA/+tqjX8="),
        (23, U.into(), &[("callSid", "lowercase"), ("CallSid", "uppercase"), ("CALLSID", "allcaps")], "jDK7WKT8wiNrwggd4ceTv4e1MJ4="),
        (24, U.into(), &[("Zebra", "last"), ("Alpha", "first"), ("Beta", "second"), ("Gamma", "third")], "enveUe73ZTVLAekHxez3Qx6JuuQ="),
        (25, "https://mycompany.com/webhook/España?año=2023".into(), P, "G/Hx6mqqnjUNlPAoi2Sp9bGst0g="),
        (26, "https://mycompany.com:443//myapp.php?foo=1&bar=2".into(), P, "A9lH3u16NjyiiM/+wylw5rirFUs="),
    ];
    assert_eq!(vectors.len(), 26);
    for (number, url, pairs, signature) in vectors {
        let pairs = params(pairs);
        assert_eq!(sign("12345", url, &pairs), *signature, "vector {number}");
        assert!(is_valid(KEY, url, &pairs, signature), "vector {number}");
        // The order of arrival does not matter.
        let reversed: Vec<_> = pairs.iter().rev().cloned().collect();
        assert!(is_valid(KEY, url, &reversed, signature), "vector {number}");
        assert!(
            !is_valid(&["54321"], url, &pairs, signature),
            "vector {number}"
        );
        assert!(
            !is_valid(KEY, &format!("{url}&x=1"), &pairs, signature),
            "vector {number}"
        );
        let more = [pairs, params(&[("x", "")])].concat();
        assert!(!is_valid(KEY, url, &more, signature), "vector {number}");
    }
}

#[test]
fn a_port_may_be_there_or_not() {
    let pairs = params(P);
    let valid = |url: &str, signature: &str| is_valid(KEY, url, &pairs, signature);
    // Signed without a port, seen with one.
    assert!(valid(
        &U.replace(".com", ".com:443"),
        "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    ));
    assert!(valid(
        &U.replace(".com", ".com:1234"),
        "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    ));
    // Signed with the standard port, seen without.
    assert!(valid(U, "kvajT1Ptam85bY51eRf/AJRuM3w="));
    assert!(valid(
        &U.replace("https", "http"),
        "0ZXoZLH/DfblKGATFgpif+LLRf4="
    ));
    for (user, bare, port) in [
        (
            "user:pass@",
            "CukzLTc1tT5dXEDIHm/tKBanW10=",
            "ZQFR1PTIZXF2MXB8ZnKCvnnA+rI=",
        ),
        (
            "user@",
            "2YRLlVAflCqxaNicjMpJcSTgzSs=",
            "aZfj4hyX1MLZhSS6QIL18Vn2/RA=",
        ),
    ] {
        let url = U.replace("//", &format!("//{user}"));
        assert!(valid(&url, port));
        assert!(valid(&url.replace(".com", ".com:443"), bare));
        // The password counts.
        assert!(!valid(U, bare));
    }
    // Another port than the standard one is never added.
    assert!(!valid(
        &U.replace("https", "http"),
        "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="
    ));
    // An IPv6 host's own colons are no port.
    assert_eq!(
        port_variants("wss://[::1]:8443/x"),
        ["wss://[::1]:8443/x", "wss://[::1]/x", "wss://[::1]:443/x"]
    );
    assert_eq!(
        port_variants("ws://h?a:b@c"),
        ["ws://h?a:b@c", "ws://h:80?a:b@c"]
    );
    assert_eq!(port_variants("no url"), ["no url"]);
}

#[test]
fn the_hash_of_a_json_body_is_checked_besides() {
    let url = format!("{U}&bodySHA256={H}");
    let signature = "a9nBmqA0ju/hNViExpshrM61xv4=";
    assert!(is_valid(KEY, &url, &[], signature));
    assert_eq!(body_hash_matches(&url, BODY), Some(true));
    // One byte of the body changed: the signature still fits, the hash does not.
    let mut changed = BODY.to_vec();
    changed[3] ^= 1;
    assert_eq!(body_hash_matches(&url, &changed), Some(false));
    // The hash of another body: it would have to be signed.
    let swapped = format!("{U}&bodySHA256={H0}");
    assert_eq!(body_hash_matches(&swapped, b"{}"), Some(true));
    assert!(!is_valid(KEY, &swapped, &[], signature));
    // Body parameters are not appended to a JSON request.
    assert!(!is_valid(
        KEY,
        &url,
        &params(&[("property", "value")]),
        signature
    ));

    // Vector 7, seen without the port; and its port-less form.
    assert!(is_valid(KEY, &swapped, &[], "Ldidvp12m26NI7eqEvxnEpkd9Hc="));
    assert!(is_valid(KEY, &swapped, &[], "rw/jVviOgicj2+kHZULvebnA4ag="));

    assert_eq!(body_hash_matches(U, b""), None);
    assert_eq!(body_hash_matches("https://h/bodySHA256=", b""), None);
    assert_eq!(
        body_hash_matches("https://h/?bodySHA256=", b""),
        Some(false)
    );
    assert_eq!(
        body_hash_matches(&format!("{swapped}&bodySHA256=0"), b"{}"),
        Some(false)
    );
}

#[test]
fn the_legacy_encoding_of_the_query() {
    let literal = format!("{U}&Body=It's+amazing");
    assert!(is_valid(
        KEY,
        &literal,
        &params(P),
        "TfZzewPq8wqrGlMfyAud8+/IvJ0="
    ));
    assert_eq!(
        legacy_encoding("https://h/it's?a=\"<é>%41"),
        Some("https://h/it's?a=%22%3C%C3%A9%3E%41".to_owned())
    );
    assert_eq!(legacy_encoding("https://h/it's?a=b+c%20"), None);
    assert_eq!(legacy_encoding("https://h/it's"), None);
}

#[test]
fn what_must_be_refused() {
    let good = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
    let pairs = params(P);
    assert!(is_valid(KEY, U, &pairs, good));
    assert!(!is_valid(&["other"], U, &pairs, good));
    let mut changed = pairs.clone();
    changed[2].1 = "1235".into();
    assert!(!is_valid(KEY, U, &changed, good));
    assert!(!is_valid(KEY, U, &pairs[1..], good));
    for signature in [
        "",
        "not base64",
        "RSOYDt4T1cUTdK1PDd93/VVr8B8",
        "RSOYDt4T1cUTdK1PDd93/VVr8B9=",
        " ",
    ] {
        assert!(!is_valid(KEY, U, &pairs, signature), "{signature}");
    }
    // Sorted by name and value joined, the two `Reason…` names change places.
    let conference = params(&with(&[
        ("ReasonConferenceEnded", "test"),
        ("Reason", "Participant"),
    ]));
    assert!(!is_valid(
        KEY,
        U,
        &conference,
        "95+Bu0JVPi0r/SsESZCVf0dWAjw="
    ));
    // No token, or an unset one, lets nobody in.
    assert!(!is_valid(&[], U, &pairs, good));
    assert!(!is_valid(&[""], U, &pairs, &sign("", U, &pairs)));
}

#[test]
fn any_of_several_tokens_and_never_the_fragment() {
    let good = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
    assert!(is_valid(&["old", "12345"], U, &params(P), good));
    assert!(is_valid(&["12345", "old"], U, &params(P), good));
    assert!(is_valid(
        KEY,
        &format!("{U}#rc=2&rt=4000"),
        &params(P),
        good
    ));
}

#[test]
fn a_raw_form_body_is_decoded_for_the_signature() {
    let body = b"CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212";
    assert!(is_valid(
        KEY,
        U,
        &parse_form(body),
        "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    ));
    // A bare plus is a space.
    let body = b"CallSid=CA1234567890ABCDE&Caller=+14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212";
    assert!(!is_valid(
        KEY,
        U,
        &parse_form(body),
        "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    ));

    let body = b"CallSid=CA00000000000000000000000000000001&AccountSid=AC00000000000000000000000000000001&From=%2B15005550006&To=%2B15005550009&CallStatus=ringing&Direction=inbound&ApiVersion=2010-04-01&CallerName=";
    let url = "https://relay.example.net/hooks/voice";
    assert!(is_valid(
        KEY,
        url,
        &parse_form(body),
        "HQbO1mHHpbS6+0DD02JgdfNM/6g="
    ));
}

#[test]
fn upgrades() {
    let url = "https://relay.example.net/hooks/status?CallSid=CA00000000000000000000000000000001&CallStatus=completed";
    assert!(is_valid(KEY, url, &[], "vZSMDVJ7Iz+CG1wNUZPUat1x00Q="));

    let path = "/media/twilio";
    let origin = "https://relay.example.net";
    #[rustfmt::skip]
    let vectors = [
        ("wss://relay.example.net/media/twilio", "gmW8z3udL4yZMhvE9UAqABjV6NE=", origin),
        ("wss://relay.example.net/media/twilio/", "kefZwabTB9apynhfsLPqkMngCZQ=", origin),
        ("wss://relay.example.net:443/media/twilio", "vn7HtdZK5KIOKtY5lV3Ne2BL+6g=", origin),
        ("wss://relay.example.net:8443/media/twilio", "vRmMMKqi2iEif1PEEGiwYD5Isgg=", "https://relay.example.net:8443"),
        ("https://relay.example.net/media/twilio", "woDxqpsAwqfetzAFYDuX8KsG0X0=", origin),
    ];
    for (url, signature, origin) in vectors {
        assert_eq!(sign("12345", url, &[]), signature, "{url}");
        for public in [
            origin.to_owned(),
            origin.replace("https", "wss"),
            format!("{origin}/"),
        ] {
            assert!(
                is_valid_upgrade(KEY, &public, path, signature),
                "{url} {public}"
            );
            assert!(
                is_valid_upgrade(KEY, &public, "/media/twilio/", signature),
                "{url}"
            );
        }
        assert!(
            !is_valid_upgrade(KEY, origin, "/media/other", signature),
            "{url}"
        );
        assert!(
            !is_valid_upgrade(KEY, "https://evil.example.net", path, signature),
            "{url}"
        );
        assert!(!is_valid_upgrade(&["x"], origin, path, signature), "{url}");
    }
    // Behind an 8443 origin the port may also have been left out.
    assert!(is_valid_upgrade(
        KEY,
        "https://relay.example.net:8443",
        path,
        "gmW8z3udL4yZMhvE9UAqABjV6NE="
    ));
    // A token in the path is part of what is signed.
    let signature = "dmr/bxGT7fQC8F1Gb3hD2X5xomE=";
    assert!(is_valid_upgrade(
        KEY,
        origin,
        "/media/twilio/7f3a9c",
        signature
    ));
    assert!(!is_valid_upgrade(
        KEY,
        origin,
        "/media/twilio/7f3a9d",
        signature
    ));
    // A query may or may not be in what was signed.
    let signed = sign("12345", "wss://relay.example.net/media/twilio?a=1", &[]);
    assert!(is_valid_upgrade(KEY, origin, "/media/twilio?a=1", &signed));
    assert!(is_valid_upgrade(
        KEY,
        origin,
        "/media/twilio?a=1",
        "gmW8z3udL4yZMhvE9UAqABjV6NE="
    ));
    assert!(!is_valid_upgrade(KEY, origin, path, &signed));

    assert!(!is_valid_upgrade(KEY, "", path, ""));
    assert!(!is_valid_upgrade(KEY, "relay.example.net", path, ""));
    assert!(!is_valid_upgrade(KEY, origin, "@evil.example.net/", ""));
    assert!(!is_valid_upgrade(&[], origin, path, ""));
}
