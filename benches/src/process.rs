//! [`ServerProcess`]: the load server in a process of its own, and on a core of its own where it is told so.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::LoadStats;

/// A `load-server` that runs until this is dropped. It must have been built beside the program that starts it.
#[derive(Debug)]
pub struct ServerProcess {
    process: Child,
    addr: SocketAddr,
    certificate: String,
    asking: Option<BufReader<TcpStream>>,
}

impl ServerProcess {
    /// Starts it with these arguments.
    ///
    /// # Errors
    /// Where it is not there, or does not say where it listens.
    ///
    /// ```no_run
    /// let mut server = tidegate_benches::ServerProcess::start(["--bytes", "142000"])?;
    /// println!("{} connections", server.stats()?.connections);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn start<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> io::Result<Self> {
        let program = std::env::current_exe()?.with_file_name(format!("load-server{}", std::env::consts::EXE_SUFFIX));
        let mut process = Command::new(&program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("start {}: {e}; build it first", program.display())))?;
        let stdout = process.stdout.take();
        // Held from here on, so that an error ends the process.
        let mut server =
            Self { process, addr: SocketAddr::from(([127, 0, 0, 1], 0)), certificate: String::new(), asking: None };
        for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
            let line = line?;
            if let Some(addr) = line.strip_prefix("listening on ") {
                server.addr = addr.parse().map_err(io::Error::other)?;
                return Ok(server);
            }
            server.certificate += &line;
            server.certificate.push('\n');
        }
        Err(io::Error::other("the server has not said where it listens"))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its certificate as PEM; empty where it does not speak TLS.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// What it has counted until now, apart from the connection that this asks over.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn stats(&mut self) -> io::Result<LoadStats> {
        LoadStats::parse(&self.ask("/stats")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Answers all requests that wait at its gate; gives how many there were.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn release(&mut self) -> io::Result<usize> {
        self.ask("/release")?.parse().map_err(io::Error::other)
    }

    /// Asks without TLS, whatever others do.
    fn ask(&mut self, path: &str) -> io::Result<String> {
        let connection = match &mut self.asking {
            Some(connection) => connection,
            none => none.insert(BufReader::new(TcpStream::connect(self.addr)?)),
        };
        connection.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: load\r\n\r\n").as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim_end().is_empty() {
                break;
            }
            length = line.strip_prefix("Content-Length: ").and_then(|n| n.trim().parse().ok()).unwrap_or(length);
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        String::from_utf8(body).map_err(io::Error::other)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
