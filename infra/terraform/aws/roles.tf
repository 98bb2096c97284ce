# What pods may do in AWS, by service account: runs everything with objects, servers with MLflow's alone, the worker nothing.
data "aws_iam_policy_document" "assumed_by_pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

locals {
  roles = {
    run    = { account = "fewstep-run", objects = "*" }
    server = { account = "fewstep-server", objects = "mlflow/*" }
  }
}

data "aws_iam_policy_document" "objects" {
  for_each = local.roles

  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${aws_s3_bucket.store.arn}/${each.value.objects}"]
  }

  statement {
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.store.arn]
  }
}

resource "aws_iam_role" "pods" {
  for_each           = local.roles
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assumed_by_pods.json
}

resource "aws_iam_role_policy" "pods" {
  for_each = local.roles
  name     = "objects"
  role     = aws_iam_role.pods[each.key].id
  policy   = data.aws_iam_policy_document.objects[each.key].json
}

resource "aws_eks_pod_identity_association" "pods" {
  for_each        = local.roles
  cluster_name    = aws_eks_cluster.cluster.name
  namespace       = var.name
  service_account = each.value.account
  role_arn        = aws_iam_role.pods[each.key].arn
}

# The driver of disks makes and attaches those of volume claims. Pods do not reach the role of their node.
resource "aws_iam_role" "disks" {
  name               = "${var.name}-disks"
  assume_role_policy = data.aws_iam_policy_document.assumed_by_pods.json
}

resource "aws_iam_role_policy_attachment" "disks" {
  role       = aws_iam_role.disks.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}

resource "aws_eks_pod_identity_association" "disks" {
  cluster_name    = aws_eks_cluster.cluster.name
  namespace       = "kube-system"
  service_account = "ebs-csi-controller-sa"
  role_arn        = aws_iam_role.disks.arn
}
