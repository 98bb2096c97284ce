output "bucket" {
  description = "The bucket; DVC's remote is a prefix in it."
  value       = aws_s3_bucket.store.bucket
}

output "database_host" {
  description = "For stack.database_host of params.yaml."
  value       = aws_db_instance.database.address
}

output "database_secret" {
  description = "Name (ARN) of the secret that holds the database's user and password."
  value       = aws_db_instance.database.master_user_secret[0].secret_arn
}

output "kubeconfig_command" {
  description = "Lets kubectl talk to the cluster."
  value       = "aws eks update-kubeconfig --name ${aws_eks_cluster.cluster.name} --region ${var.region}"
}
