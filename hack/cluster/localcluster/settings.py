"""The daemons' configuration files, as text. JSON where YAML is expected: it is a subset."""

import json

from .config import CLUSTER_DOMAIN, CNI_NETWORK, NODE_IP, POD_CIDR, Config

COREDNS_READY_PORT = 18181
PAUSE_TAG = "1"


def _json(document: dict[str, object]) -> str:
    return json.dumps(document, indent=2) + "\n"


def registry(config: Config) -> str:
    """Configure the image registry."""
    return _json(
        {
            "version": 0.1,
            # No blob cache: after a garbage collection it would list deleted blobs.
            "storage": {
                "filesystem": {"rootdirectory": str(config.state / "registry")},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"127.0.0.1:{config.registry_port}"},
            "log": {"level": "warn"},
        }
    )


def containerd(config: Config) -> str:
    """Configure containerd."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{config.state}/containerd"
state = "{config.run}/containerd"

[grpc]
  address = "{config.containerd_socket}"

[{cri}]
  sandbox_image = "{config.image("pause", PAUSE_TAG)}"
  # Some machines lack CAP_SYS_RESOURCE, without which a negative score is refused.
  restrict_oom_score_adj = true
  # Everything that has to be unmounted after a crash lies under one directory.
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

[{cri}.containerd]
  snapshotter = "overlayfs"
  # The registry has them still.
  discard_unpacked_layers = true

[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [{cri}.containerd.runtimes.runc.options]
    SystemdCgroup = false

[{cri}.cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{config.etc}/cni"

[{cri}.registry.mirrors."{config.registry}"]
  endpoint = ["http://127.0.0.1:{config.registry_port}"]
"""


def cni(config: Config) -> str:
    """Configure point-to-point links: the host routes all traffic of pods, so Services need no bridge filters."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(config.leases),
    }
    return _json(
        {
            "cniVersion": "0.4.0",
            "name": CNI_NETWORK,
            "plugins": [{"type": "ptp", "ipam": addresses}],
        }
    )


def audit_policy() -> str:
    """Configure what the API server logs: the requests of ServiceAccounts outside kube-system, without their bodies."""
    return _json(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],  # an open watch has ResponseStarted only
            "rules": [
                {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
                # Discovery, which every account may request.
                {"level": "None", "nonResourceURLs": ["*"]},
                {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
                {"level": "None"},
            ],
        }
    )


def kubelet(config: Config, cgroup_root: str) -> str:
    """Configure the kubelet."""
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{config.containerd_socket}",
            "address": NODE_IP,
            "healthzBindAddress": "127.0.0.1",
            "tlsCertFile": str(config.pki / "kubelet.crt"),
            "tlsPrivateKeyFile": str(config.pki / "kubelet.key"),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(config.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [NODE_IP],
            "clusterDomain": CLUSTER_DOMAIN,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup_root,
            "failCgroupV1": False,
            "failSwapOn": False,
            # Idle cores are anyone's: the imports of a trainer of half a core take 7.5 s, with its limit enforced 22 s.
            "cpuCFSQuota": False,
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,  # unused here, and they would outlive the kubelet
            # The root file system's device may be invisible to the kubelet's statistics.
            "localStorageCapacityIsolation": False,
            "evictionHard": {"memory.available": "100Mi"},
            # `cluster.py images` removes old images itself; 100 turns the kubelet's own collection off.
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
            "maxPods": 200,
            "podLogsDir": str(config.state / "pod-logs"),
            "volumePluginDir": str(config.state / "kubelet-plugins"),
        }
    )


def kube_proxy(config: Config) -> str:
    """Configure kube-proxy."""
    return _json(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(config.etc / "proxy.kubeconfig")},
            "mode": "nftables",
            "clusterCIDR": POD_CIDR,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "nodePortAddresses": ["127.0.0.0/8", f"{NODE_IP}/32"],
            "oomScoreAdj": 0,
            # Leave the machine's connection tracking limits alone.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
    )


def corefile(config: Config) -> str:
    """Configure CoreDNS: Services of the cluster, everything else as the machine resolves it."""
    return f"""\
.:53 {{
    bind {NODE_IP}
    errors
    ready 127.0.0.1:{COREDNS_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {config.etc}/coredns.kubeconfig
        fallthrough in-addr.arpa
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 30 {{
        disable success {CLUSTER_DOMAIN}
        disable denial {CLUSTER_DOMAIN}
    }}
}}
"""
