//! A registry of images on this machine, for pulls: one image, which the Engine has given us.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::Node;

/// It answers until the test's process ends.
pub struct Registry {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What it gives, by the end of its path.
struct Blob {
    end: String,
    kind: &'static str,
    bytes: Vec<u8>,
}

impl Registry {
    /// One that has the image `name:v1` as the node's Engine has `image`.
    ///
    /// # Panics
    /// When the Engine does not give it.
    pub fn with(node: &Node, image: &str) -> Self {
        let folder = node.place().at("registry");
        std::fs::create_dir_all(&folder).expect("a folder");
        let tar = folder.join("image.tar");
        node.docker_ok(&["save", "-o", tar.to_str().expect("a path"), image]);
        let mut untar = std::process::Command::new("tar");
        untar.arg("-xf").arg(&tar).arg("-C").arg(&folder);
        assert!(untar.status().expect("tar starts").success());
        let read = |path: &str| std::fs::read(folder.join(path)).expect("a file of the image");
        let manifest: Value = serde_json::from_slice(&read("manifest.json")).expect("JSON");
        let config = read(manifest[0]["Config"].as_str().expect("a config"));
        let parsed: Value = serde_json::from_slice(&config).expect("JSON");
        let layers = manifest[0]["Layers"].as_array().expect("layers").iter();
        let layers: Vec<Vec<u8>> = layers.map(|l| read(l.as_str().expect("a path"))).collect();
        let digests = parsed["rootfs"]["diff_ids"].as_array().expect("digests").clone();
        let config_digest = format!("sha256:{}", sha256(&folder.join("config"), &config));
        let described = layers.iter().zip(&digests).map(|(bytes, digest)| {
            json!({"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": bytes.len(), "digest": digest})
        });
        let text = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(), "digest": config_digest},
            "layers": described.collect::<Vec<_>>(),
        });
        let text = text.to_string().into_bytes();
        let digest = format!("sha256:{}", sha256(&folder.join("manifest"), &text));
        let blob =
            |end: String, bytes: Vec<u8>| Blob { end, kind: "application/octet-stream", bytes };
        let mut blobs = vec![blob(config_digest, config)];
        for (bytes, digest) in layers.into_iter().zip(&digests) {
            blobs.push(blob(digest.as_str().expect("a digest").to_owned(), bytes));
        }
        for end in ["manifests/v1".to_owned(), format!("manifests/{digest}")] {
            blobs.push(Blob { end, kind: MANIFEST, bytes: text.clone() });
        }
        blobs.push(blob("/v2/".to_owned(), b"{}".to_vec()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (notes, blobs) = (Arc::clone(&asked), Arc::new((blobs, digest)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (notes, blobs) = (Arc::clone(&notes), Arc::clone(&blobs));
                std::thread::spawn(move || answer(stream, &blobs.0, &blobs.1, &notes));
            }
        });
        Self { port, asked }
    }

    /// What `docker pull` takes.
    pub fn image(&self) -> String {
        format!("127.0.0.1:{}/tools/train:v1", self.port)
    }

    /// How often the image was asked for.
    pub fn pulls(&self) -> usize {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|line| line.contains("manifests/v1")).count()
    }
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn answer(stream: TcpStream, blobs: &[Blob], digest: &str, notes: &Mutex<Vec<String>>) {
    let Ok(from) = stream.try_clone() else { return };
    let (mut from, mut to) = (BufReader::new(from), stream);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut header = String::new();
        while from.read_line(&mut header).unwrap_or(0) > 2 {
            header.clear();
        }
        notes.lock().expect("no panic").push(line.trim().to_owned());
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let none = Vec::new();
        let (status, kind, bytes) = match blobs.iter().find(|blob| path.ends_with(&blob.end)) {
            Some(blob) => ("200 OK", blob.kind, &blob.bytes),
            None => ("404 Not Found", "text/plain", &none),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Docker-Content-Digest: {digest}\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\r\n",
            bytes.len()
        );
        let body: &[u8] = if method == "HEAD" { &[] } else { bytes };
        if to.write_all(head.as_bytes()).and_then(|()| to.write_all(body)).is_err() {
            return;
        }
    }
}

fn sha256(file: &Path, bytes: &[u8]) -> String {
    std::fs::write(file, bytes).expect("written");
    let got = std::process::Command::new("sha256sum").arg(file).output().expect("sha256sum");
    String::from_utf8_lossy(&got.stdout).split(' ').next().expect("a sum").to_owned()
}
