//! Certificates, made with the openssl program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority, in a folder of its own.
pub struct Authority {
    folder: tempfile::TempDir,
}

/// What a certificate is for.
#[derive(Clone, Copy)]
pub enum Use<'a> {
    /// A server with this `subjectAltName`.
    Server(&'a str),
    /// A client.
    Client,
    /// A client whose time was over long ago.
    Expired,
}

/// Whether the program is there; says so when not.
pub fn is_missing() -> bool {
    let missing = Command::new("openssl").arg("version").output().is_err();
    if missing {
        println!("SKIPPED: openssl is not installed");
    }
    missing
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("issued")).unwrap();
        std::fs::write(path.join("index"), "").unwrap();
        std::fs::write(path.join("serial"), "01\n").unwrap();
        std::fs::write(
            path.join("ca.conf"),
            "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\nnew_certs_dir=issued\ncertificate=ca.pem\n\
             private_key=ca.key\ndefault_md=sha256\ndefault_days=30\npolicy=any\n[any]\ncommonName=supplied\n",
        )
        .unwrap();
        let authority = Authority { folder };
        let subject = format!("/CN={name}");
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "30",
            "-subj",
            &subject,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        authority
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate and its key.
    pub fn issue(&self, name: &str, for_what: Use) -> (PathBuf, PathBuf) {
        let usage = match for_what {
            Use::Server(names) => format!("extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName={names}\n"),
            Use::Client | Use::Expired => "extendedKeyUsage=clientAuth\n".to_string(),
        };
        std::fs::write(self.folder.path().join("extensions"), format!("basicConstraints=CA:FALSE\n{usage}")).unwrap();
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            &subject,
        ]);
        let mut arguments = vec![
            "ca",
            "-batch",
            "-config",
            "ca.conf",
            "-in",
            &request,
            "-out",
            &certificate,
            "-notext",
            "-extfile",
            "extensions",
        ];
        if matches!(for_what, Use::Expired) {
            arguments.extend(["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]);
        }
        self.openssl(&arguments);
        (self.folder.path().join(certificate), self.folder.path().join(key))
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.path()).output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}
