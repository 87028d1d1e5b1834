//! TLS configurations: whom we trust, who we are. The `ring` provider is named each time, so that no
//! process-wide default is needed and none can be forgotten. No ALPN: every peer speaks HTTP/1.1.

use super::tls::TlsError;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::Path;
use std::sync::Arc;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn failed(what: &str, path: &Path, error: impl std::fmt::Display) -> TlsError {
    TlsError(format!("{what} {}: {error}", path.display()))
}

/// A client's configuration: TLS 1.3 and 1.2, the platform's roots and those of `ca_file` (PEM), sessions
/// resumed (keep the `Arc`: the session cache lives in it). Errs when `ca_file` cannot be read or when
/// no root is left at all; single roots of the platform that rustls refuses are passed over.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    let platform = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(platform.certs);
    if let Some(path) = ca_file {
        for certificate in read_certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| failed("CA file", path, error))?;
        }
    }
    client_config_with(roots)
}

/// A client for whatever servers the configuration names beside the model: the platform's roots, sessions resumed.
/// Where the platform has none it trusts nobody, and only plain connections work.
pub fn outcall_config() -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    client_config_of(roots)
}

/// A client that trusts only the roots of this PEM text: for simulators and tests.
pub fn client_config_from_pem(ca_pem: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| TlsError(format!("CA PEM: {error}")))?;
        roots.add(certificate)?;
    }
    client_config_with(roots)
}

fn client_config_with(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    if roots.is_empty() {
        return Err(TlsError(
            "no root certificates: the platform has none and no CA file is set".into(),
        ));
    }
    client_config_of(roots)
}

fn client_config_of(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|iter| iter.collect::<Result<Vec<_>, _>>())
        .map_err(|error| failed("certificate file", path, error))?;
    if certificates.is_empty() {
        return Err(failed("certificate file", path, "holds no certificate"));
    }
    Ok(certificates)
}

/// A server's configuration from PEM files: the chain, leaf first, and its key (PKCS #8, PKCS #1 or
/// SEC1). TLS 1.3 and 1.2. Errs when a file cannot be read or the two do not belong together.
pub fn server_config(cert_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| failed("key file", key_file, error))?;
    server_config_with(chain, key).map_err(|error| failed("certificate file", cert_file, error))
}

fn server_config_with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// A certificate made on the spot.
#[derive(Debug, Clone)]
pub struct SelfSigned {
    /// The leaf's chain, PEM, leaf first.
    pub cert_pem: String,
    /// Its key, PEM (PKCS #8).
    pub key_pem: String,
    /// The root that signed it, PEM: what a client must trust.
    pub ca_pem: String,
}

/// Makes a root and a leaf for `names` (DNS names or addresses). The root's key is thrown away, so
/// trusting it trusts this leaf alone.
pub fn make_certificate(names: &[&str]) -> Result<SelfSigned, TlsError> {
    let rcgen_error = |error: rcgen::Error| TlsError(format!("certificate: {error}"));
    let mut root = rcgen::CertificateParams::new(Vec::new()).map_err(rcgen_error)?;
    root.distinguished_name
        .push(rcgen::DnType::CommonName, "voxrelay test root");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    root.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    let root_key = rcgen::KeyPair::generate().map_err(rcgen_error)?;
    let root = rcgen::CertifiedIssuer::self_signed(root, root_key).map_err(rcgen_error)?;

    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut leaf = rcgen::CertificateParams::new(names).map_err(rcgen_error)?;
    leaf.distinguished_name
        .push(rcgen::DnType::CommonName, "voxrelay test server");
    leaf.use_authority_key_identifier_extension = true;
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf_key = rcgen::KeyPair::generate().map_err(rcgen_error)?;
    let certificate = leaf.signed_by(&leaf_key, &root).map_err(rcgen_error)?;
    Ok(SelfSigned {
        cert_pem: certificate.pem(),
        key_pem: leaf_key.serialize_pem(),
        ca_pem: root.pem(),
    })
}

/// A server's configuration with a certificate made on the spot, and the root to trust as PEM. For
/// simulators, the demo and tests.
pub fn self_signed(names: &[&str]) -> Result<(Arc<ServerConfig>, String), TlsError> {
    let made = make_certificate(names)?;
    let chain = CertificateDer::pem_slice_iter(made.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError(error.to_string()))?;
    let key = PrivateKeyDer::Pkcs8(
        PrivatePkcs8KeyDer::from_pem_slice(made.key_pem.as_bytes())
            .map_err(|error| TlsError(error.to_string()))?,
    );
    Ok((server_config_with(chain, key)?, made.ca_pem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_make_a_server_and_a_client_that_trust_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let made = make_certificate(&["localhost", "127.0.0.1"]).unwrap();
        let cert = folder.path().join("cert.pem");
        let key = folder.path().join("key.pem");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&cert, &made.cert_pem).unwrap();
        std::fs::write(&key, &made.key_pem).unwrap();
        std::fs::write(&ca, &made.ca_pem).unwrap();
        server_config(&cert, &key).unwrap();
        client_config(Some(&ca)).unwrap();
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("cert.pem");
        let key = folder.path().join("key.pem");
        std::fs::write(&cert, make_certificate(&["localhost"]).unwrap().cert_pem).unwrap();
        std::fs::write(&key, make_certificate(&["localhost"]).unwrap().key_pem).unwrap();
        assert!(server_config(&cert, &key).is_err());
    }

    #[test]
    fn missing_and_empty_files_are_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        assert!(
            client_config(Some(&empty))
                .unwrap_err()
                .0
                .contains("empty.pem")
        );
        let missing = folder.path().join("missing.pem");
        let error = server_config(&missing, &empty).unwrap_err();
        assert!(error.0.contains("missing.pem"), "{error}");
    }
}
