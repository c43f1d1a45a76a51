//! A client of the container runtime interface as the kubelet is one: pods, containers, exec by request and by stream.
//! Prints ids, output and JSON; ends with the code of what was executed.

mod requests;
mod stream;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

#[derive(Debug, Parser)]
struct CommandLine {
    /// Socket of the engine.
    #[arg(long)]
    socket: String,
    #[command(subcommand)]
    command: Command,
}

/// A pod as the kubelet would ask for it.
#[derive(Debug, Clone, Args)]
pub struct Pod {
    /// Name.
    #[arg(long)]
    pub pod: String,
    /// Namespace.
    #[arg(long)]
    pub namespace: String,
    /// Uid.
    #[arg(long)]
    pub uid: String,
    /// Folder of its containers' logs.
    #[arg(long)]
    pub logs: String,
    /// Control group above it.
    #[arg(long)]
    pub group: String,
    /// Whether its containers share a pid namespace.
    #[arg(long)]
    pub share_pids: bool,
    /// Annotations, NAME=VALUE.
    #[arg(long = "annotation")]
    pub annotations: Vec<String>,
}

/// A container of a pod.
#[derive(Debug, Clone, Args)]
pub struct Container {
    /// Id of the pod.
    #[arg(long)]
    pub sandbox: String,
    #[command(flatten)]
    pub pod: Pod,
    /// Name.
    #[arg(long)]
    pub name: String,
    /// Image.
    #[arg(long)]
    pub image: String,
    /// Mounts, SOURCE:DESTINATION.
    #[arg(long = "mount")]
    pub mounts: Vec<String>,
    /// Seccomp profile: default, unconfined, or a file.
    #[arg(long, default_value = "unconfined")]
    pub seccomp: String,
    /// Whether it is privileged.
    #[arg(long)]
    pub privileged: bool,
    /// Program and arguments.
    #[arg(last = true)]
    pub words: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the engine's version.
    Version,
    /// Starts a pod; prints its id.
    RunPod {
        #[command(flatten)]
        pod: Pod,
        /// Handler of the RuntimeClass; empty for the default.
        #[arg(long, default_value = "")]
        handler: String,
    },
    /// Stops and removes a pod.
    RemovePod { id: String },
    /// Creates a container; prints its id.
    Create(Container),
    /// Starts it.
    Start { id: String },
    /// Prints state and exit code.
    Status { id: String },
    /// Prints whether figures of its memory are told.
    Stats { id: String },
    /// Prints the ids of all containers.
    List,
    /// Stops it.
    Stop { id: String },
    /// Removes it.
    Remove { id: String },
    /// Changes its share of processor time.
    Update { id: String },
    /// Executes and waits.
    ExecSync {
        id: String,
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Executes with output as a stream.
    ExecStream {
        id: String,
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Attaches to the output of a running container until it ends.
    Attach { id: String },
}

type Client = RuntimeServiceClient<Channel>;
type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(CommandLine::parse()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("acctguard-cri: {error}");
            ExitCode::from(70)
        }
    }
}

async fn connect(socket: String) -> Result<Client, Failure> {
    // the address is not used: the connector goes to the socket
    let endpoint = Endpoint::try_from("http://[::]")?;
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    Ok(RuntimeServiceClient::new(endpoint.connect_with_connector(connector).await?))
}

async fn run(line: CommandLine) -> Result<u8, Failure> {
    let mut client = connect(line.socket).await?;
    match line.command {
        Command::ExecSync { id, words } => return exec_sync(&mut client, id, words).await,
        Command::ExecStream { id, words } => {
            let request =
                v1::ExecRequest { container_id: id, cmd: words, stdout: true, stderr: true, ..Default::default() };
            let url = client.exec(request).await.map_err(told)?.into_inner().url;
            return stream::run(&url);
        }
        Command::Attach { id } => {
            let request = v1::AttachRequest { container_id: id, stdout: true, stderr: true, ..Default::default() };
            let url = client.attach(request).await.map_err(told)?.into_inner().url;
            return stream::run(&url);
        }
        command => println!("{}", answer(&mut client, command).await?),
    }
    Ok(0)
}

fn told(status: tonic::Status) -> Failure {
    status.message().to_owned().into()
}

async fn exec_sync(client: &mut Client, id: String, words: Vec<String>) -> Result<u8, Failure> {
    let request = v1::ExecSyncRequest { container_id: id, cmd: words, timeout: 60 };
    let done = client.exec_sync(request).await.map_err(told)?.into_inner();
    print!("{}", String::from_utf8_lossy(&done.stdout));
    eprint!("{}", String::from_utf8_lossy(&done.stderr));
    Ok(u8::try_from(done.exit_code).unwrap_or(u8::MAX))
}

async fn answer(client: &mut Client, command: Command) -> Result<String, Failure> {
    let nothing = String::new();
    Ok(match command {
        Command::Version => {
            let version = client.version(v1::VersionRequest::default()).await.map_err(told)?.into_inner();
            format!("{} {}", version.runtime_name, version.runtime_version)
        }
        Command::RunPod { pod, handler } => {
            let request = v1::RunPodSandboxRequest { config: Some(requests::pod(&pod)), runtime_handler: handler };
            client.run_pod_sandbox(request).await.map_err(told)?.into_inner().pod_sandbox_id
        }
        Command::RemovePod { id } => {
            let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            client.stop_pod_sandbox(stop).await.map_err(told)?;
            client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await.map_err(told)?;
            nothing
        }
        Command::Create(container) => {
            client.create_container(requests::container(&container)?).await.map_err(told)?.into_inner().container_id
        }
        Command::Start { id } => {
            client.start_container(v1::StartContainerRequest { container_id: id }).await.map_err(told)?;
            nothing
        }
        Command::Stop { id } => {
            client.stop_container(v1::StopContainerRequest { container_id: id, timeout: 0 }).await.map_err(told)?;
            nothing
        }
        Command::Remove { id } => {
            client.remove_container(v1::RemoveContainerRequest { container_id: id }).await.map_err(told)?;
            nothing
        }
        Command::Update { id } => {
            client.update_container_resources(requests::update(id)).await.map_err(told)?;
            nothing
        }
        Command::Status { id } => {
            let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
            let status =
                client.container_status(request).await.map_err(told)?.into_inner().status.ok_or("no status")?;
            format!("{} {}", v1::ContainerState::try_from(status.state)?.as_str_name(), status.exit_code)
        }
        Command::Stats { id } => {
            let request = v1::ContainerStatsRequest { container_id: id };
            let stats = client.container_stats(request).await.map_err(told)?.into_inner().stats.ok_or("no stats")?;
            let memory = stats.memory.and_then(|memory| memory.working_set_bytes).ok_or("no memory in the stats")?;
            format!("memory {}", memory.value)
        }
        Command::List => {
            let list = client.list_containers(v1::ListContainersRequest::default()).await.map_err(told)?.into_inner();
            list.containers.into_iter().map(|container| container.id).collect::<Vec<_>>().join("\n")
        }
        Command::ExecSync { .. } | Command::ExecStream { .. } | Command::Attach { .. } => nothing,
    })
}
