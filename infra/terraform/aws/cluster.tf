# EKS with two groups of nodes: small ones for the servers, GPU ones for runs, which come and go.
data "aws_iam_policy_document" "assumed_by_eks" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "cluster" {
  name               = "${var.name}-cluster"
  assume_role_policy = data.aws_iam_policy_document.assumed_by_eks.json
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"
}

resource "aws_eks_cluster" "cluster" {
  name                      = var.name
  role_arn                  = aws_iam_role.cluster.arn
  version                   = var.kubernetes_version
  enabled_cluster_log_types = ["api", "audit", "authenticator"]

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = true
  }

  vpc_config {
    subnet_ids              = var.subnet_ids
    endpoint_private_access = true
    endpoint_public_access  = length(var.api_cidrs) > 0
    public_access_cidrs     = length(var.api_cidrs) > 0 ? var.api_cidrs : null
  }

  depends_on = [aws_iam_role_policy_attachment.cluster]
}

resource "aws_eks_addon" "addons" {
  # the driver of disks, for the volumes of runs; pod identities, for the right to the bucket; network policies
  for_each     = toset(["aws-ebs-csi-driver", "eks-pod-identity-agent", "vpc-cni"])
  cluster_name = aws_eks_cluster.cluster.name
  addon_name   = each.key
  # the cluster comes with add-ons that nobody manages
  resolve_conflicts_on_create = "OVERWRITE"
  depends_on                  = [aws_eks_node_group.servers, aws_eks_pod_identity_association.disks]
  configuration_values        = each.key == "vpc-cni" ? jsonencode({ enableNetworkPolicy = "true" }) : null
}

data "aws_iam_policy_document" "assumed_by_nodes" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "nodes" {
  name               = "${var.name}-nodes"
  assume_role_policy = data.aws_iam_policy_document.assumed_by_nodes.json
}

resource "aws_iam_role_policy_attachment" "nodes" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])
  role       = aws_iam_role.nodes.name
  policy_arn = "arn:aws:iam::aws:policy/${each.key}"
}

resource "aws_eks_node_group" "servers" {
  cluster_name    = aws_eks_cluster.cluster.name
  node_group_name = "servers"
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = var.subnet_ids
  instance_types  = [var.server_instance_type]

  scaling_config {
    desired_size = 2
    min_size     = 1
    max_size     = 3
  }

  depends_on = [aws_iam_role_policy_attachment.nodes]
}

resource "aws_eks_node_group" "gpus" {
  cluster_name    = aws_eks_cluster.cluster.name
  node_group_name = "gpus"
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = var.subnet_ids
  instance_types  = [var.gpu_instance_type]
  ami_type        = "AL2023_x86_64_NVIDIA"
  capacity_type   = var.gpu_spot ? "SPOT" : "ON_DEMAND"
  disk_size       = var.gpu_disk_gib

  scaling_config {
    desired_size = 0
    min_size     = 0
    max_size     = var.gpu_nodes_most
  }

  # Pods that ask for a GPU tolerate this by themselves (the admission plug-in of extended resources); servers stay away.
  taint {
    key    = "nvidia.com/gpu"
    value  = "present"
    effect = "NO_SCHEDULE"
  }

  lifecycle { ignore_changes = [scaling_config[0].desired_size] } # an autoscaler's

  depends_on = [aws_iam_role_policy_attachment.nodes]
}
