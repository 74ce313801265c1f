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
    stats: Option<BufReader<TcpStream>>,
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
        let mut line = String::new();
        let read = process.stdout.take().map_or(Ok(0), |stdout| BufReader::new(stdout).read_line(&mut line));
        // Held from here on, so that an error ends the process.
        let mut server = Self { process, addr: SocketAddr::from(([127, 0, 0, 1], 0)), stats: None };
        read?;
        let addr = line.trim_start_matches("listening on ").trim();
        server.addr = addr.parse().map_err(|_| io::Error::other(format!("the server said {line:?}")))?;
        Ok(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has counted until now, apart from the connection that this asks over.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn stats(&mut self) -> io::Result<LoadStats> {
        let connection = match &mut self.stats {
            Some(connection) => connection,
            none => none.insert(BufReader::new(TcpStream::connect(self.addr)?)),
        };
        connection.get_mut().write_all(b"GET /stats HTTP/1.1\r\nHost: load\r\n\r\n")?;
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
        LoadStats::parse(&String::from_utf8_lossy(&body)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
