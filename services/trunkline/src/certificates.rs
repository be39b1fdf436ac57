//! `trunkline certificates`: an authority for a first mesh, and a certificate for each role.
//!
//! Running it again renews the certificates under the same authority; processes take up new files by themselves. A larger
//! mesh has an authority already, and needs nothing of this but the form of the names.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chassis::entry;
use chassis::tls::{Role, TrustDomain};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::process::Failure;

/// For the command line's help.
pub(crate) const EXAMPLES: &str = "\
Example:
  trunkline certificates --dir certificates
      Makes ca.pem, and ROLE.pem and ROLE.key for each role: gateway, session, registry, bridge and operator
  trunkline session --config mesh.toml --set mtls.certificate=certificates/session.pem \\
      --set mtls.key=certificates/session.key --set mtls.ca=certificates/ca.pem
      Uses them

Running it again renews the certificates under the same authority; running processes take them up. ca.key makes new members
of the mesh: keep it away from the machines that run it.";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_DAYS: u32 = 3650;
/// Clocks differ.
const EARLIER: Duration = Duration::from_secs(5 * 60);

/// Arguments of `certificates`.
#[derive(Debug, Args)]
pub(crate) struct Certificates {
    /// Directory for the files; made if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of the mesh: mtls.trust_domain of its processes.
    #[arg(long, value_name = "NAME", default_value = "trunkline")]
    trust_domain: TrustDomain,
    /// How long the certificates of the roles are valid, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificatesError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority's key is none.
    #[error("{path} cannot be used: {source}", path = path.display())]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// A certificate cannot be made.
    #[error("certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes or renews them, and prints where they are.
pub(crate) fn run(arguments: &Certificates) -> Result<(), Failure> {
    for file in make(arguments).map_err(Failure::failed)? {
        entry::print(&file.display().to_string()).map_err(Failure::failed)?;
    }
    Ok(())
}

fn make(arguments: &Certificates) -> Result<Vec<PathBuf>, CertificatesError> {
    let dir = &arguments.dir;
    fs::create_dir_all(dir).map_err(at(dir))?;
    let authority = authority(dir, &arguments.trust_domain)?;
    let mut made = vec![dir.join("ca.pem"), dir.join("ca.key")];
    for role in Role::ALL {
        let key = KeyPair::generate()?;
        let certificate = role_params(role, arguments)?.signed_by(&key, &authority)?;
        let files = [dir.join(format!("{role}.pem")), dir.join(format!("{role}.key"))];
        replace(&files[0], &certificate.pem(), 0o644)?;
        replace(&files[1], &key.serialize_pem(), 0o600)?;
        made.extend(files);
    }
    Ok(made)
}

/// The authority that is there, or a new one.
fn authority(dir: &Path, domain: &TrustDomain) -> Result<Issuer<'static, KeyPair>, CertificatesError> {
    let (certificate, path) = (dir.join("ca.pem"), dir.join("ca.key"));
    let params = authority_params(domain)?;
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            replace(&certificate, &params.self_signed(&key)?.pem(), 0o644)?;
            replace(&path, &key.serialize_pem(), 0o600)?;
            return Ok(Issuer::new(params, key));
        }
        Err(source) => return Err(CertificatesError::Io { path, source }),
    };
    let key = KeyPair::from_pem(&text).map_err(|source| CertificatesError::Key { path, source })?;
    Ok(Issuer::new(params, key))
}

/// The same for the same mesh, so that the authority can be taken up with nothing but its key.
fn authority_params(domain: &TrustDomain) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("mesh {}", String::from(domain.clone())));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, AUTHORITY_DAYS);
    Ok(params)
}

fn role_params(role: Role, arguments: &Certificates) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, role.name());
    params.subject_alt_names = vec![SanType::URI(arguments.trust_domain.uri(role).try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    valid(&mut params, arguments.days);
    Ok(params)
}

fn valid(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + DAY * days).into();
}

/// Whoever reads the file sees the old text or the new one.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertificatesError> {
    let new = path.with_extension("new");
    let write = || {
        // One that a run before left behind may have another mode.
        drop(fs::remove_file(&new));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CertificatesError + use<> {
    let path = path.to_owned();
    |source| CertificatesError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use chassis::tls::{Config, Mesh};

    use super::*;

    fn arguments(dir: &Path) -> Certificates {
        Certificates { dir: dir.join("made"), trust_domain: TrustDomain::default(), days: 1 }
    }

    fn mesh(dir: &Path, role: Role) -> Mesh {
        let file = |name: String| dir.join("made").join(name);
        let config = Config {
            certificate: file(format!("{role}.pem")),
            key: file(format!("{role}.key")),
            ca: file("ca.pem".into()),
            ..Config::default()
        };
        Mesh::new(&config, Some(role)).unwrap()
    }

    async fn meets(listens: &Mesh, dials: &Mesh) -> Role {
        let (near, far) = tokio::io::duplex(1 << 14);
        let dialler = dials.dialler(&[Role::Session]).unwrap();
        let member = listens.member().unwrap();
        let (dialled, accepted) =
            tokio::join!(dialler.connector().unwrap().connect("127.0.0.1", near), member.accept(far));
        dialled.unwrap();
        accepted.unwrap().1.role()
    }

    #[tokio::test]
    async fn what_is_made_is_a_mesh_and_stays_one_when_it_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(make(&arguments(dir.path())).unwrap().len(), 12);
        let before = mesh(dir.path(), Role::Session);
        let authority = fs::read(dir.path().join("made/ca.pem")).unwrap();
        make(&arguments(dir.path())).unwrap();
        assert_eq!(fs::read(dir.path().join("made/ca.pem")).unwrap(), authority);
        let after = mesh(dir.path(), Role::Gateway);
        assert_eq!(meets(&before, &after).await, Role::Gateway);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        for file in make(&arguments(dir.path())).unwrap() {
            let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            let is_key = file.extension().is_some_and(|e| e == "key");
            assert_eq!(mode, if is_key { 0o600 } else { 0o644 }, "{}", file.display());
        }
    }
}
